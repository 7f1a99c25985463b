"""Llama 3.2 with a rope that was trained for 64 positions: the boundary of its scaling lies within the KV cache."""

from dataclasses import replace
from functools import partial
from typing import Any

from models.llama3_2 import LLAMA3_2

TRAINED = 64


def _published() -> Any:
    config = LLAMA3_2.published()
    config.rope_parameters["original_max_position_embeddings"] = TRAINED
    return config


def _config() -> Any:
    config = LLAMA3_2.config()
    config.build_rope = partial(config.build_rope, max_seq_len=TRAINED)
    return config


SCALED_ROPE = replace(LLAMA3_2, name="scaled_rope", config=_config, published=_published)
