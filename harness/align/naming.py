"""What the linear layers of a flatbuffer are called, by which its taps are found.

In: module paths of tensor names. Out: the role of a layer: `q`, `k`, `v`, `qkv`, `o`, `gate`, `up`, `gate_up`, `down`.

Two exporters of litert-torch name tensors in two ways: the Generative API by the modules of the re-authored model
(`TransformerBlock_3/.../Linear_w2`), `export_hf` by those of the Hugging Face model
(`LlamaDecoderLayer_3/LlamaMLP_mlp/Linear_down_proj`). The latter's names follow from where the model's tensor names
lead, whatever its classes are called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.names.stages import HF
from harness.names.taps import block_tap

# A block, whatever its class: TransformerBlock_3, Gemma2Block_3, LlamaDecoderLayer_3.
_BLOCK = re.compile(r"^[A-Za-z]\w*_(\d+)$")
_LINEAR = "Linear_"
# Point -> role of the linear layer that makes it.
LINEAR_ROLES = {
    "attn.q": "q",
    "attn.k": "k",
    "attn.v": "v",
    "attn.out": "o",
    "mlp.gate": "gate",
    "mlp.up": "up",
    "mlp.out": "down",
}
Key = tuple[int, str]  # block, role
_FUSED = (("qkv", ("q", "k", "v")), ("gate_up", ("gate", "up")))


@dataclass(frozen=True)
class Naming:
    """tails: role -> attributes that lead to the layer, the last ones at least, e.g. `("mlp", "down_proj")`.

    linear: whether only classes called Linear count. qkv_view: how the fused projection of attention is split, see
    `view_tensor`; its part is appended.
    """

    tails: Mapping[str, tuple[str, ...]]
    linear: bool
    qkv_view: str

    def key(self, path: Sequence[str]) -> Key | None:
        """`(..., "TransformerBlock_3", ..., "Linear_w2")` -> `(3, "down")`; None for any other module."""
        block = block_number(path[:-1])
        if block is None or (self.linear and not path[-1].startswith(_LINEAR)):
            return None
        attributes = tuple(part.partition("_")[2] for part in path)
        for role, tail in self.tails.items():
            if attributes[-len(tail) :] == tail:
                return block, role
        return None


GENERATIVE = Naming(
    {
        "qkv": ("qkv_projection",),
        "o": ("output_projection",),
        "gate": ("w1",),
        "up": ("w3",),
        "down": ("w2",),
    },
    linear=True,
    qkv_view="split_",
)


def hf_naming(modules: Mapping[str, Mapping[str, str | None]], interleaved: bool) -> Naming:
    """Names by the Hugging Face model's modules.

    modules: tap -> version -> module path, of block 0 at least. interleaved: whether its fused queries, keys and values
    are laid out by KV head.
    """
    tails: dict[str, tuple[str, ...]] = {}
    for point, role in LINEAR_ROLES.items():
        _, found, tail = (modules.get(block_tap(0, point), {}).get(HF) or "").partition(".0.")
        if found:
            tails[role] = tuple(tail.split("."))
    for whole, parts in _FUSED:
        if all(part in tails for part in parts) and len({tails[part] for part in parts}) == 1:
            tails[whole] = tails[parts[0]]
            for part in parts:
                del tails[part]
    return Naming(tails, linear=False, qkv_view="split_grouped_" if interleaved else "split_joined_")


def block_number(path: Sequence[str]) -> int | None:
    """The number of the block that a path leads into, or None."""
    return next((int(match[1]) for part in path if (match := _BLOCK.match(part))), None)


def told_apart(named: Sequence[Sequence[Key]]) -> list[Key | None]:
    """Which of the layers in its names each operator is, where operators carry the names of their neighbours as well.

    named: per operator the layers in its names. A layer that is the only one of an operator is not another operator's:
    names `q`, `q k`, `q v` are those of q, k and v. None for one that cannot be told, and for all but the first of
    those that have the same name alone.
    """
    left = [list(dict.fromkeys(keys)) for keys in named]
    found: list[Key | None] = [None] * len(left)
    while True:
        sure = next((at for at, keys in enumerate(left) if len(keys) == 1), None)
        if sure is None:
            return found
        (key,) = left[sure]
        found[sure] = key
        left = [[item for item in keys if item != key] for keys in left]
