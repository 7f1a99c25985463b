"""What tensors of a flatbuffer are called that TensorFlow converted of a Keras model.

In: module paths of tensor names. Out: paths of Keras layers, and the role of a linear layer.

Keras puts a layer's path before the name of each operator, and a number behind the name of a layer that is called
again: `transformer_layer_0_1/self_attention_1/query_1/MatMul` is of `transformer_layer_0/self_attention/query`. The
converter joins the names of operators that it fuses by `;`, the one that gives the result first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_AGAIN = re.compile(r"_\d+$")
_SCALED = re.compile(r"/Mul(;|$)")
Key = tuple[int, str]


def keras_layers(path: Sequence[str]) -> tuple[str, ...]:
    """The layers that an operator of this path may be of: its own name tells not whether the first layer's number is
    that of a block or of a call."""
    inner = [_AGAIN.sub("", part) for part in path[1:-1]]
    firsts = dict.fromkeys((path[0], _AGAIN.sub("", path[0]))) if len(path) > 1 else ()
    return tuple("/".join((first, *inner)) for first in firsts)


@dataclass(frozen=True)
class KerasNaming:
    """block: what the layer of a block is called, `transformer_layer_{}`. tails: role -> layers within it, e.g.
    `("self_attention", "query")`."""

    block: str
    tails: Mapping[str, tuple[str, ...]]
    qkv_view: str = "split_joined_"

    def key(self, path: Sequence[str]) -> Key | None:
        """`("transformer_layer_3_1", "self_attention_1", "query_1", "MatMul")` -> `(3, "q")`; None for any other."""
        number = self.number(path)
        if number is None:
            return None
        inner = tuple(_AGAIN.sub("", part) for part in path[1:])
        for role, tail in self.tails.items():
            if inner[: len(tail)] == tail:
                return number, role
        return None

    def number(self, path: Sequence[str]) -> int | None:
        """Of the block that a path leads into."""
        head, _, end = self.block.partition("{}")
        found = re.fullmatch(rf"{re.escape(head)}(\d+){re.escape(end)}(_\d+)?", path[0]) if path else None
        return int(found[1]) if found else None


def keras_naming(layers: Mapping[str, str], block: str) -> KerasNaming:
    """layers: role -> path of the layer in block 0, "transformer_layer_0/self_attention/query"."""
    return KerasNaming(block, {role: tuple(path.split("/")[1:]) for role, path in layers.items()})


def is_scaled(name: str) -> bool:
    """Whether a linear layer's tensor carries the name of the product that attention makes of its queries: the
    converter multiplied weight and bias by the scale."""
    return bool(_SCALED.search(name))
