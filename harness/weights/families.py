"""What the families of Hugging Face configs call the same things, and the few facts in which they differ.

In: a Hugging Face config. Out: sizes and facts under one name each. Reads configs only, imports no framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """The sizes of one layer and of the model around it. `window` is 0 for a model without a sliding window."""

    vocab: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0


def sizes_of(config: Any, layer: int = 0) -> Sizes:
    """The sizes of a Hugging Face config at one layer; most families have the same ones at every layer."""
    heads = _at(config.num_attention_heads, layer)
    hidden = int(config.hidden_size)
    intermediate = first(config, "intermediate_size", "ffn_hidden_size", "n_inner")
    return Sizes(
        vocab=int(config.vocab_size),
        layers=int(config.num_hidden_layers),
        hidden=hidden,
        intermediate=_at(intermediate, layer) if intermediate else 4 * hidden,
        heads=heads,
        kv_heads=_kv_heads(config, heads, layer),
        head_dim=int(first(config, "head_dim") or hidden // heads),
        window=_window(config),
    )


def _window(config: Any) -> int:
    """0 for a window that no position outgrows: Phi-3 publishes one of twice its longest sequence."""
    window = int(first(config, "sliding_window") or 0)
    return window if window < int(first(config, "max_position_embeddings") or window + 1) else 0


def _kv_heads(config: Any, heads: int, layer: int) -> int:
    if _is_old_falcon(config):
        return 1 if config.multi_query else heads
    return _at(first(config, "num_key_value_heads", "num_kv_heads") or heads, layer)


def _is_old_falcon(config: Any) -> bool:
    """Falcon of the first generation: one KV head or as many as there are query heads."""
    return getattr(config, "model_type", "") == "falcon" and not config.new_decoder_architecture


def heads_differ(config: Any) -> bool:
    """Whether the layers have different numbers of heads, as OpenELM's have."""
    return isinstance(config.num_attention_heads, (list, tuple))


def ties_hidden_to_heads(config: Any) -> bool:
    """Whether the hidden size is heads times head_dim: Falcon and GPT-2 compute it, Phi-3 checks rope's factors."""
    return getattr(config, "model_type", "") in ("falcon", "phi3", "gpt2")


def learns_positions(config: Any) -> bool:
    """Whether positions are rows of a table that is added to the embedding: nothing is rotated then."""
    return getattr(config, "model_type", "") == "gpt2"


def stores_turned(kind: str) -> bool:
    """Whether linear layers keep their weights `[in, out]`. kind: the config's `model_type`."""
    return kind == "gpt2"


def uses_alibi(config: Any) -> bool:
    return bool(getattr(config, "alibi", False))


def interleaves_qkv(config: Any) -> bool:
    """Whether a fused q, k, v projection is laid out by KV head, `[q.. k v][q.. k v]`, and not `[q..][k..][v..]`."""
    return getattr(config, "model_type", "") == "falcon"


def first(config: Any, *names: str) -> Any:
    """The first of these fields that the config has and that is not None."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def _at(value: Any, layer: int) -> int:
    return int(value[layer] if isinstance(value, (list, tuple)) else value)


def rope_boundary(config: Any) -> int | None:
    """The length that a scaled rope was trained for before it was scaled; None for one that is not scaled."""
    found = first(config, "rope_parameters", "rope_scaling")
    if not isinstance(found, dict):
        return None
    kinds = [found, *(part for part in found.values() if isinstance(part, dict))]  # one for each kind of layer
    scaled = [part for part in kinds if part.get("rope_type", part.get("type", "default")) != "default"]
    field = "original_max_position_embeddings"
    lengths = [*(part.get(field) for part in scaled), first(config, field)] if scaled else []
    return next((length for length in lengths if type(length) is int and length > 0), None)
