"""Which constants of a flatbuffer are the weights of which layer, told by the taps that layers make.

In: a signature's subgraph and where its taps are. Out: a `LayerWeight` per linear layer, the embedding and the head.

A layer is called by the tap that it makes: `block.3.mlp.up`, `embed`, `logits`. One projection may make several, and is
called by the first: `block.3.attn.q` for fused queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.align.views import TapSource
from harness.flatbuffer.reader import FlatbufferModel, Operator, Subgraph
from harness.names.taps import EMBED, LOGITS, split_tap

LINEAR = "FULLY_CONNECTED"
LOOKUPS = ("EMBEDDING_LOOKUP", "GATHER")
# Taps that a linear layer makes, in execution order.
LAYER_POINTS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.out")
_DEQUANTIZE = "DEQUANTIZE"
_INTEGERS = ("INT8", "INT16")
# What may stand between the embedding and the first block, between the head and the logits.
_THROUGH = ("MUL", "ADD", "RESHAPE", "CAST", "TANH", "DIV", "SELECT_V2", _DEQUANTIZE)


@dataclass(frozen=True)
class LayerWeight:
    """A weight of a layer as a signature has it.

    taps: those that the layer makes, the first of which it is called by.
    operator: that takes the weight. constant: index of the tensor that the file holds.
    narrow: whether the operator itself takes the narrow numbers, not their dequantised copy: then a linear layer
        quantises its input as well, row by row.
    bias: index of the constant, or None.
    static: whether the operator's input is whole numbers with a range of its own, which the file holds: then nothing is
        quantised row by row.
    """

    taps: tuple[str, ...]
    operator: Operator
    constant: int
    narrow: bool
    bias: int | None = None
    static: bool = False

    @property
    def layer(self) -> str:
        return self.taps[0]


def layer_weights(model: FlatbufferModel, graph: Subgraph, sources: Mapping[str, TapSource]) -> list[LayerWeight]:
    """Those of every layer that can be told, in execution order.

    sources: tap -> where it is in this subgraph; taps inside composites say nothing.
    """
    finder = _Finder(model, graph)
    makers: dict[int, list[str]] = {}
    for tap, source in sources.items():
        if source.inner or split_tap(tap)[1] not in LAYER_POINTS:
            continue
        made_by = finder.writer.get(source.tensor)
        if made_by is not None and made_by.kind == LINEAR:
            makers.setdefault(made_by.index, []).append(tap)
    for tap, kinds in ((EMBED, LOOKUPS), (LOGITS, (LINEAR,))):
        if tap in sources:
            made_by = finder.upwards(sources[tap].tensor, kinds)
            if made_by is not None:
                makers.setdefault(made_by.index, []).append(tap)
    return sorted(finder.weights(makers), key=lambda weight: weight.operator.index)


def file_weights(
    model: FlatbufferModel, plans: Mapping[str, Mapping[str, TapSource]]
) -> Iterator[tuple[Subgraph, LayerWeight]]:
    """Those of every signature, each with its subgraph: signatures share numbers, and each has scales of its own.

    plans: signature -> tap -> where it is.
    """
    for signature, sources in plans.items():
        graph = model.subgraph(model.signatures[signature].subgraph)
        for weight in layer_weights(model, graph, sources):
            yield graph, weight


class _Finder:
    def __init__(self, model: FlatbufferModel, graph: Subgraph) -> None:
        self.model = model
        self.graph = graph
        self.writer = graph.producers()

    def upwards(self, index: int, kinds: tuple[str, ...]) -> Operator | None:
        """The nearest operator of one of the kinds that a tensor is made by."""
        op = self.writer.get(index)
        if op is None or op.kind in kinds:
            return op
        if op.kind not in _THROUGH:
            return None
        found = (self.upwards(item, kinds) for item in op.inputs if item >= 0)
        return next((op for op in found if op is not None), None)

    def weights(self, makers: Mapping[int, list[str]]) -> Iterator[LayerWeight]:
        for number, taps in makers.items():
            op = self.graph.operators[number]
            own = op.inputs[1] if op.kind in (LINEAR, "EMBEDDING_LOOKUP") else op.inputs[0]
            bias = op.inputs[2] if op.kind == LINEAR and len(op.inputs) > 2 and op.inputs[2] >= 0 else None
            found = self.constant(own)
            if found is not None:
                held_bias = None if bias is None else self.constant(bias)
                static = op.kind == LINEAR and self.graph.tensors[op.inputs[0]].dtype in _INTEGERS
                yield LayerWeight(tuple(taps), op, found, found == own, held_bias, static)

    def constant(self, index: int) -> int | None:
        """The constant that a tensor is, or is dequantised from; None for a tensor that is computed."""
        op = self.writer.get(index)
        if op is not None:
            return self.constant(op.inputs[0]) if op.kind == _DEQUANTIZE else None
        return index if len(self.model.buffer(self.graph.tensors[index].buffer)) else None
