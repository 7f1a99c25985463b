"""A model in small: the published structure with seeded random weights.

In: a model and a seed. Out: a shrunk Hugging Face config with the re-authored config shrunk by the same rule, and a
checkpoint folder.

What makes a model itself stays: norm eps, rope base and scaling, activation, biases, the ratio of query to KV heads,
softcaps, layer pattern, tying. Sizes shrink. The re-authored config is shrunk relative to the published one: where the
two disagree, their miniatures disagree too, so a wrong value in the re-authored config stays wrong.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.spec.model import GenerativeModel
from harness.weights.configs import full_reauthored_config, published_config
from harness.weights.families import Sizes, heads_differ, sizes_of, ties_hidden_to_heads, uses_alibi
from harness.weights.first_layers import with_layers
from harness.weights.random_weights import write_seeded

# Part of the cache key of a miniature: raise it when the rule or the weights below change.
RULE = 1

VOCAB = 512
LAYERS = 2
HIDDEN = 128
STEP = 32  # sizes are multiples of it, for the blocks of quantisation recipes
INTERMEDIATE = 256
LARGEST_HEAD_DIM = 256
# Where the heads make the hidden size: Falcon, say, has no smaller one than its heads times their dimension.
LARGEST_HIDDEN = 1024
LARGEST_GQA_RATIO = 8
# Short enough that an input of one prefill (32 tokens) is twice as long, so that the window really cuts something off.
WINDOW = 16


def shrink(model: GenerativeModel, layers: int | None = None) -> tuple[Any, Any]:
    """(Hugging Face config, litert-torch `ModelConfig`), both in small. layers: how many, None for as many as needed.

    Raises UsageError for more layers than the model has.
    """
    small = shrunk_hf_config(model, layers)
    published = published_config(model)
    return small, _shrunk_model_config(model, published, small, kept_layers(model, published, layers))


def shrunk_hf_config(model: GenerativeModel, layers: int | None = None) -> Any:
    """The published config in small: a fresh object of the same class."""
    config = published_config(model)
    before = sizes_of(config)
    if _never_reached(model, before.window):
        before = replace(before, window=0)
    kept = kept_layers(model, config, layers)
    after = _small_sizes(config, before, len(kept))
    small = with_layers(config, kept)
    _set(small, ("vocab_size",), after.vocab)
    _set(small, ("hidden_size",), after.hidden)
    if heads_differ(config):  # then so does the width of the feed forward, as multiples of the hidden size
        _set(small, ("ffn_dim_divisor",), STEP)
    else:
        _set(small, ("intermediate_size", "ffn_hidden_size"), after.intermediate)
        _set(small, ("num_attention_heads",), after.heads)
        _set(small, ("num_key_value_heads", "num_kv_heads"), after.kv_heads)
    if not ties_hidden_to_heads(config):
        small.head_dim = after.head_dim
    if before.window:
        small.sliding_window = after.window
    # Gemma scales its queries by this instead of head_dim; the two are the same number in most sizes.
    if getattr(small, "query_pre_attn_scalar", None) == before.head_dim:
        small.query_pre_attn_scalar = after.head_dim
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(small, token, None)
        if not isinstance(value, int) or value >= after.vocab:
            setattr(small, token, None)
    small.architectures = None
    small.dtype = "float32"
    return small


def _never_reached(model: GenerativeModel, window: int) -> bool:
    """Whether a published window is one that no input of the re-authored model outgrows, and that it leaves out.

    Shrunk on one side alone, such a window would act in the miniature and at full size never.
    """
    config: Any = full_reauthored_config(model) if window else None
    reach = getattr(config, "max_seq_len", None)
    if reach is None or reach > window:
        return False
    blocks = config.block_configs if isinstance(config.block_configs, (list, tuple)) else [config.block_configs]
    return all(block.attn_config.sliding_window_size is None for block in blocks)


def kept_layers(model: GenerativeModel, config: Any, wanted: int | None) -> list[int]:
    """Which layers of the published model the miniature has.

    The first ones: two, or as many as it takes until each kind of layer has come up. Where the sizes change from layer
    to layer, evenly spread ones instead, first and last among them, as many as it takes to have each number of heads.
    Raises UsageError for more than there are.
    """
    total = sizes_of(config).layers
    if wanted is not None and wanted > total:
        raise UsageError(f"--layers {wanted}: {model.name} has {total} layers; give at most as many")
    if not heads_differ(config):
        return list(range(wanted or _layers_needed(config, total)))
    heads = config.num_attention_heads
    spreads = ([round(i * (total - 1) / max(1, n - 1)) for i in range(n)] for n in range(LAYERS, total + 1))
    if wanted is None:
        return next(spread for spread in spreads if {heads[layer] for layer in spread} == set(heads))
    return [round(i * (total - 1) / max(1, wanted - 1)) for i in range(wanted)]


def _small_sizes(config: Any, before: Sizes, layers: int) -> Sizes:
    kv_heads = min(2, before.kv_heads)
    ratio = min(LARGEST_GQA_RATIO, max(1, before.heads // before.kv_heads))
    if uses_alibi(config) or heads_differ(config):  # ALiBi's slopes follow from the number of heads
        kv_heads, ratio = before.kv_heads, before.heads // before.kv_heads
    heads = kv_heads * ratio
    head_dim = min(LARGEST_HEAD_DIM, before.head_dim)
    if ties_hidden_to_heads(config):
        head_dim = min(head_dim, LARGEST_HIDDEN // heads)
    return Sizes(
        vocab=min(VOCAB, before.vocab),
        layers=layers,
        hidden=_hidden(config, heads, head_dim),
        intermediate=INTERMEDIATE,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window=min(WINDOW, before.window),
    )


def _hidden(config: Any, heads: int, head_dim: int) -> int:
    """A multiple of `STEP`, and of the heads, which Llama's config insists on."""
    if ties_hidden_to_heads(config):
        return heads * head_dim
    step = STEP if heads_differ(config) else math.lcm(STEP, heads)
    return step * math.ceil(HIDDEN / step)


def _layers_needed(config: Any, layers: int) -> int:
    """Two, or as many as it takes until each kind of layer has come up."""
    kinds = list(getattr(config, "layer_types", None) or [])[:layers]
    needed = next((n for n in range(1, len(kinds) + 1) if set(kinds[:n]) == set(kinds)), 1)
    return min(layers, max(LAYERS, needed))


def _shrunk_model_config(model: GenerativeModel, published: Any, small: Any, kept: list[int]) -> Any:
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


def _set(config: Any, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if getattr(config, name, None) is not None:
            setattr(config, name, value)


def write_miniature(model: GenerativeModel, seed: int, folder: Path, layers: int | None = None) -> None:
    """Write config.json and model.safetensors (float32) into an existing folder; the same bits for the same seed."""
    write_seeded(shrunk_hf_config(model, layers), seed, folder)
