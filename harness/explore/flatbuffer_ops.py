"""The operators of one signature of a flatbuffer, with those inside its composites in their place.

In: a `FlatbufferModel` and where its taps are. Out: an `OpGraph`. Weights are never read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from harness.align.flatbuffer import plan_signature
from harness.align.naming import hf_naming
from harness.align.op_graph import INPUTS, OUTSIDE, Op, OpGraph
from harness.align.views import TapSource
from harness.flatbuffer.reader import FlatbufferModel, Operator, Signature, Subgraph, Tensor
from harness.jobs.prepared import Prepared
from harness.pipeline.flatbuffers import keras_names_of

_BLOCK = re.compile(r"_\d+$")  # the layer of a block, whatever its class: TransformerBlock_3
_WRAPPERS = ("ExportableModule",)  # the model itself is called `..._module`
_UNSAID = ("None", "0", "False", "")


def flatbuffer_ops(model: FlatbufferModel, signature: str, prepared: Prepared) -> OpGraph:
    """The graph of a signature, with its taps. Raises KeyError for a signature that the file lacks."""
    entry = model.signatures[signature]
    dims, points = prepared.dimensions, tuple(prepared.points)
    hf = hf_naming(prepared.modules, dims.hf_interleaved)
    plan = plan_signature(model, entry, dims.blocks, points, prepared.own_blocks, hf, keras_names_of(prepared))
    walk = _walked(model, entry)
    return OpGraph(tuple(walk.ops.values()), _taps(walk, plan.sources), walk.places)


def signature_ops(model: FlatbufferModel, entry: Signature) -> tuple[OpGraph, dict[int, str]]:
    """The graph of a signature of any model, and for each tensor of its subgraph the operator that makes it."""
    walk = _walked(model, entry)
    makers = {tensor: op for (subgraph, tensor), op in walk.makers.items() if subgraph == entry.subgraph}
    return OpGraph(tuple(walk.ops.values()), {}, walk.places), makers


def _walked(model: FlatbufferModel, entry: Signature) -> _Walk:
    walk = _Walk(model)
    tensors = model.subgraph(entry.subgraph).tensors
    given = {index: walk.input(name, tensors[index]) for name, index in entry.inputs.items()}
    made = walk.expand(entry.subgraph, given)
    for name, index in entry.outputs.items():
        if index in made:
            walk.say(made[index], "output of the signature", name)
    return walk


def _taps(walk: _Walk, sources: Mapping[str, TapSource]) -> dict[str, str]:
    found = {tap: walk.makers.get((source.subgraph, source.tensor)) for tap, source in sources.items()}
    return {tap: op for tap, op in found.items() if op is not None and op in walk.ops}


class _Walk:
    """One pass over a signature. A composite is not an operator of its own: its subgraph stands in its place."""

    def __init__(self, model: FlatbufferModel) -> None:
        self.model = model
        self.ops: dict[str, Op] = {}
        self.places: dict[str, str] = {}
        self.makers: dict[tuple[int, int], str] = {}  # (subgraph, tensor) -> operator

    def input(self, name: str, tensor: Tensor) -> str:
        op = Op(f"input {name}", name, INPUTS, (), {"tensor": tensor.name}, _sizes(tensor), tensor.dtype.lower())
        self.ops[op.id] = op
        return op.id

    def say(self, op: str, key: str, value: str) -> None:
        if op in self.ops:
            self.ops[op].attributes[key] = value

    def expand(self, index: int, given: Mapping[int, str], prefix: str = "", inside: str = "") -> dict[int, str]:
        """Add a subgraph's operators. given: tensor -> the operator outside that makes it.

        Returns tensor -> operator, for every tensor that one makes.
        """
        graph = self.model.subgraph(index)
        made = dict(given)
        for op in graph.operators:
            identity, output = f"{prefix}{op.index}", graph.tensors[op.outputs[0]]
            sources = tuple(dict.fromkeys(made[source] for source in op.inputs if source in made))
            namespace = inside or (_modules(output) if _has_path(output) else self._beside(sources))
            if op.decomposition is not None:
                self._composite(graph, op, made, identity, namespace)
                continue
            self.ops[identity] = self._op(graph, op, identity, namespace, sources)
            self.places[f"{index}/{op.index}"] = identity
            made |= dict.fromkeys(op.outputs, identity)
        self.makers |= {(index, tensor): op for tensor, op in made.items()}
        return made

    def _beside(self, sources: Sequence[str]) -> str:
        """Where an operator stands whose tensor has lost its path, as what a signature gives back has: in a block with
        what it reads, else on its own."""
        groups = [[part for part in self.ops[op].namespace.split("/") if " " not in part] for op in sources]
        return next(("/".join(group) for group in groups if group and _BLOCK.search(group[0])), "")

    def _composite(self, graph: Subgraph, op: Operator, made: dict[int, str], identity: str, namespace: str) -> None:
        assert op.decomposition is not None
        entered = zip(self.model.subgraph_inputs(op.decomposition), op.inputs, strict=True)
        given = {inner: made[outer] for inner, outer in entered if outer in made}
        group = "/".join(part for part in (namespace, f"{op.composite} {identity}") if part)
        inner = self.expand(op.decomposition, given, f"{identity}.", group)
        outputs = self.model.subgraph_outputs(op.decomposition)
        for tensor, source in zip(op.outputs, outputs, strict=True):
            if source in inner:
                made[tensor] = inner[source]
                self.places[f"{graph.index}/{op.index}"] = inner[source]

    def _op(self, graph: Subgraph, op: Operator, identity: str, namespace: str, sources: Sequence[str]) -> Op:
        tensor = graph.tensors[op.outputs[0]]
        attributes = {"operator": f"{op.index} of subgraph {graph.index}", "tensor": tensor.name}
        for number, index in enumerate(op.inputs):
            if index >= 0:
                read = graph.tensors[index]
                attributes[f"input {number}"] = (
                    f"{read.dtype.lower()} {_sizes(read)} {read.path[-1] if read.path else ''}"
                )
        for key, value in self.model.options(graph.index, op.index).items():
            if str(value) not in _UNSAID:
                attributes[key] = str(value)
        return Op(
            identity, op.kind.lower(), namespace, tuple(sources), attributes, _sizes(tensor), tensor.dtype.lower()
        )


def _sizes(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _has_path(tensor: Tensor) -> bool:
    return "/" in tensor.name.split(";")[0]


def _modules(tensor: Tensor) -> str:
    """The modules of a tensor, without the wrappers that all tensors share."""
    parts = [part for part in tensor.path if part not in _WRAPPERS and not part.endswith("_module")]
    return "/".join(parts) or OUTSIDE
