"""A flatbuffer's constant with the modules that its tensor names lead to, and what it is found to hold.

In: constants as they are read. Out: `NamedConstant`, and whether one carries the name of a parameter's module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from harness.align.keras_names import keras_layers
from harness.audit.pieces import Piece
from harness.audit.values import Array
from harness.flatbuffer.reads import ReadConstant
from harness.weights.parameters import ParameterSource

_BLOCK = re.compile(r"Block_(\d+)$")
_LAYER = re.compile(r"^[A-Za-z]\w*_(\d+)$")  # a block of the Hugging Face model: LlamaDecoderLayer_3
_IN_LAYER = re.compile(r"\.(\d+\..*)$")


@dataclass
class NamedConstant:
    """names: modules that its tensor names lead to, re-authored or Hugging Face's; none where the converter left it
    unnamed. holds: parameters. turned: those of them that it holds transposed. pieces: what it holds of tensors of the
    checkpoint, where it holds no parameter whole.

    claimed: it is reported as what should hold a parameter and does not.
    """

    read: ReadConstant
    holds: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    claimed: bool = False
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [
            name for path in self.read.paths for name in (_reauthored(path), _hf(path), *keras_layers(path)) if name
        ]

    @property
    def values(self) -> Array:
        return self.read.values

    @property
    def found(self) -> bool:
        return bool(self.holds or self.pieces)

    def __str__(self) -> str:
        """Its own tensor's name without the packages before it, which fill a screen."""
        return self.read.name.split(";;")[0].rsplit("/", 1)[-1].rsplit(".", 1)[-1].split(";")[0]

    def is_named(self, source: ParameterSource) -> bool:
        """Whether it carries the name of a parameter's module, or of one that a tensor of it comes from."""
        if re.split(r"[./](?=[^./]*$)", source.parameter)[0] in self.names:
            return True
        ends = tuple(f".{_in_layer(key.rpartition('.')[0])}" for key in source.keys)
        return any(f".{name}".endswith(ends) for name in self.names)


def _in_layer(module: str) -> str:
    """ "model.layers.3.mlp.up_proj" -> "3.mlp.up_proj": a list of layers never runs, so that names lack it."""
    match = _IN_LAYER.search(module)
    return match.group(1) if match else module


def _reauthored(path: tuple[str, ...]) -> str:
    """("X_module", "TransformerBlock_3", "GatedFeedForward_ff", "Linear_w2") -> "transformer_blocks.3.ff.w2"."""
    parts = []
    for part in path:
        block = _BLOCK.search(part)
        if block:
            parts = ["transformer_blocks", block.group(1)]
        elif not part.endswith("_module"):
            parts.append(part.partition("_")[2])
    return ".".join(part for part in parts if part)


def _hf(path: tuple[str, ...]) -> str:
    """("LlamaModel_model", "LlamaDecoderLayer_3", "LlamaMLP_mlp", "Linear_up_proj") -> "model.3.mlp.up_proj"."""
    layers = [_LAYER.match(part) for part in path]
    parts = [layer.group(1) if layer else part.partition("_")[2] for part, layer in zip(path, layers, strict=True)]
    return ".".join(part for part in parts if part)
