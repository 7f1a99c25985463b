"""TinyLlama at full width. Its vocabulary is 4,096: that widens no sum, and two layers take half the time."""

from dataclasses import replace
from typing import Any

from models.tiny_llama import TINY_LLAMA


def _narrow(config: Any) -> Any:
    config.vocab_size = 4096
    return config


TINY_LLAMA_WIDE = replace(
    TINY_LLAMA,
    name="tiny_llama_wide",
    config=lambda: _narrow(TINY_LLAMA.config()),
    published=lambda: _narrow(TINY_LLAMA.published()),
)
