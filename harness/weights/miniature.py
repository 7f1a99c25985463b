"""A model in small: the published structure with seeded random weights.

In: a model and a seed. Out: a shrunk Hugging Face config, and a checkpoint folder. The route shrinks its own config by
the same rule.

What makes a model itself stays: norm eps, rope base and scaling, activation, biases, the ratio of query to KV heads,
softcaps, layer pattern, tying. Sizes shrink.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.weights.configs import published_config
from harness.weights.families import Sizes, heads_differ, sizes_of, ties_hidden_to_heads, uses_alibi
from harness.weights.first_layers import with_layers
from harness.weights.random_weights import write_seeded
from harness.weights.small_tokenizer import write_small_tokenizer

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


def shrunk_hf_config(model: Model, layers: int | None = None) -> Any:
    """The published config in small: a fresh object of the same class."""
    config = published_config(model)
    before = sizes_of(config)
    if before.window and route_of(model).never_reaches(model, before.window):
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
        # Left out, it is four times the hidden size; one of that width stays one.
        _set(small, ("n_inner",), 4 * after.hidden if before.intermediate == 4 * before.hidden else after.intermediate)
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


def kept_layers(model: Model, config: Any, wanted: int | None) -> list[int]:
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


def _set(config: Any, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if getattr(config, name, None) is not None:
            setattr(config, name, value)


def write_miniature(model: Model, seed: int, folder: Path, layers: int | None = None) -> None:
    """Write config.json and model.safetensors (float32) into an existing folder; the same bits for the same seed."""
    write_seeded(shrunk_hf_config(model, layers), seed, folder)
    if model.small_tokenizer:
        write_small_tokenizer(folder)
