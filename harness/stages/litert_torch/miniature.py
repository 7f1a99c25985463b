"""The re-authored config in small, shrunk by the rule of the published one.

In: a model's declaration. Out: a `ModelConfig`. It is shrunk relative to the published one: where the two disagree,
their miniatures disagree too, so a wrong value in the re-authored config stays wrong.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.full_config import full_reauthored_config
from harness.weights.configs import published_config
from harness.weights.families import Sizes, sizes_of
from harness.weights.miniature import kept_layers, shrunk_hf_config


def shrink(model: GenerativeModel, layers: int | None = None) -> tuple[Any, Any]:
    """(Hugging Face config, litert-torch `ModelConfig`), both in small. layers: how many, None for as many as needed.

    Raises UsageError for more layers than the model has.
    """
    small = shrunk_hf_config(model, layers)
    published = published_config(model)
    return small, _shrunk(model, published, small, kept_layers(model, published, layers))


def never_reaches(model: GenerativeModel, window: int) -> bool:
    """Whether a published window is one that no input of the re-authored model outgrows, and that it leaves out.

    Shrunk on one side alone, such a window would act in the miniature and at full size never.
    """
    config: Any = full_reauthored_config(model)
    reach = getattr(config, "max_seq_len", None)
    if reach is None or reach > window:
        return False
    blocks = config.block_configs if isinstance(config.block_configs, (list, tuple)) else [config.block_configs]
    return all(block.attn_config.sliding_window_size is None for block in blocks)


def _shrunk(model: GenerativeModel, published: Any, small: Any, kept: list[int]) -> Any:
    """The example's `ModelConfig` in small, with its own mistakes kept."""
    config = copy.deepcopy(full_reauthored_config(model))
    before, after = sizes_of(published), sizes_of(small)
    layers = max(1, after.layers + _sign(int(config.num_layers) - before.layers))
    kept = [*kept, kept[-1] + 1][:layers]
    config.vocab_size = _carried(int(config.vocab_size), before.vocab, after.vocab)
    if config.embedding_scale is not None and math.isclose(config.embedding_scale, math.sqrt(before.hidden)):
        config.embedding_scale = math.sqrt(after.hidden)
    config.embedding_dim = _carried(int(config.embedding_dim), before.hidden, after.hidden)
    if isinstance(config.block_configs, (list, tuple)):
        config.block_configs = [config.block_configs[layer] for layer in kept if layer < len(config.block_configs)]
        layers = len(config.block_configs)
        blocks = config.block_configs
    else:
        blocks = [config.block_configs]
    if config.attention_patterns is not None:
        config.attention_patterns = [config.attention_patterns[layer] for layer in kept[:layers]]
    config.num_layers = layers
    done: set[int] = set()  # blocks may share their parts: shrink each part once
    for number, block in enumerate(blocks):
        place = min(number, after.layers - 1)
        sizes = sizes_of(published, min(kept[number], before.layers - 1)), sizes_of(small, place)
        for part, shrink_part in ((block.attn_config, _shrink_attention), (block.ff_config, _shrink_feed_forward)):
            if id(part) not in done:
                done.add(id(part))
                shrink_part(part, *sizes)
    return config


def _shrink_attention(attention: Any, before: Sizes, after: Sizes) -> None:
    heads, kv_heads = int(attention.num_heads), int(attention.num_query_groups or attention.num_heads)
    if (heads, kv_heads) == (before.heads, before.kv_heads):
        attention.num_heads, attention.num_query_groups = after.heads, after.kv_heads
    else:
        attention.num_query_groups = _carried(kv_heads, before.kv_heads, after.kv_heads)
        ratio = _carried(max(1, heads // kv_heads), before.heads // before.kv_heads, after.heads // after.kv_heads)
        attention.num_heads = attention.num_query_groups * ratio
    attention.head_dim = _carried(int(attention.head_dim), before.head_dim, after.head_dim)
    if attention.sliding_window_size is not None and before.window:
        attention.sliding_window_size = _carried(int(attention.sliding_window_size), before.window, after.window)


def _shrink_feed_forward(feed_forward: Any, before: Sizes, after: Sizes) -> None:
    feed_forward.intermediate_size = _carried(
        int(feed_forward.intermediate_size), before.intermediate, after.intermediate
    )
    activation = feed_forward.activation
    if activation.dim_in == before.hidden:
        activation.dim_in = after.hidden
    if activation.dim_out == before.intermediate:
        activation.dim_out = after.intermediate


def _carried(value: int, before: int, after: int) -> int:
    """`after` for the published value; for any other value one that differs, on the same side."""
    if value == before:
        return after
    scaled = max(1, round(value * after / before))
    return scaled if scaled != after else max(1, after + _sign(value - before))


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
