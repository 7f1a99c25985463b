"""What a decoder is made of, in words that both versions share.

In: nothing. Out: `Structure`, which `published.py` and `reauthored.py` fill in and `differences.py` compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Norm:
    """A normalisation layer, as it acts.

    kind: "rms" or "layer". eps: added to the mean square. zero_centred: multiplies by 1 + weight.
    gain: factor at unit weight, 1 unless the layer scales once more.
    """

    kind: str
    eps: float
    zero_centred: bool = False
    bias: bool = False
    gain: float = 1.0

    def __str__(self) -> str:
        return f"{self.kind} norm with eps {self.eps:g}"


@dataclass(frozen=True)
class Rope:
    """Rotary embedding, as it acts.

    base: theta. dims: numbers of a head that are turned, two for each frequency.
    scaling: base^(-2i/dims) over the real frequency i, so all ones without scaling. amplitude: factor of cos and sin.
    """

    base: float
    dims: int
    scaling: tuple[float, ...]
    amplitude: float = 1.0

    def __str__(self) -> str:
        return f"rotary embedding with base {self.base:g}"


@dataclass(frozen=True)
class Layer:
    """One transformer block. A norm, rope, softcap or window that the block lacks is None.

    alibi: bias per head at the key positions of `ALIBI_POSITIONS`, before it is multiplied by `query_scale`.
    post_attention: the norm of attention's output, before the residual. pre_mlp: the norm after the residual.
    unmapped_norms: norms that `tensor_names` does not name.
    """

    heads: int
    kv_heads: int
    head_dim: int
    query_scale: float
    softcap: float | None
    window: int | None
    rope: Rope | None
    alibi: tuple[float, ...] | None
    qkv_bias: bool
    output_bias: bool
    activation: str
    gated: bool
    intermediate_size: int
    mlp_bias: bool
    parallel_residual: bool
    pre_attention: Norm | None
    post_attention: Norm | None
    pre_mlp: Norm | None
    post_mlp: Norm | None
    query_norm: Norm | None
    key_norm: Norm | None
    unmapped_norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Structure:
    """A decoder.

    embedding_scale: factor of the embeddings, 1 where there is none. max_length: positions it is declared for.
    rope_until: positions beyond which the rotary frequencies are others; None where they never change.
    modules: field -> the module to look at, with `{}` for the block's number.
    unaudited: field -> why it could not be established; such a field is never compared.
    """

    vocabulary: int
    hidden_size: int
    max_length: int | None
    embedding_scale: float
    tied_embeddings: bool
    lm_head_bias: bool
    final_softcap: float | None
    final_norm: Norm | None
    rope_until: int | None
    layers: tuple[Layer, ...]
    modules: Mapping[str, str] = field(default_factory=dict)
    unaudited: Mapping[str, str] = field(default_factory=dict)


ALIBI_POSITIONS = (1, 255)
