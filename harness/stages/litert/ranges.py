"""Run a range of a flatbuffer's operators on the runtime of a TFLite stage, keeping every tensor.

In: a flatbuffer, operators of one of its subgraphs and the values of what they read. Out: the values of all that they
write.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.flatbuffer.cut import Range, is_constant, write_cut
from harness.flatbuffer.reader import FlatbufferModel
from harness.names.stages import BUILTIN, REFERENCE, XNNPACK

Array = np.ndarray[Any, Any]
RESOLVERS = {
    BUILTIN: "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    XNNPACK: "AUTO",
    REFERENCE: "BUILTIN_REF",
}


class RangeRunner:
    """Ranges of one file on one runtime. `stage` may carry a recipe in brackets."""

    def __init__(self, model: FlatbufferModel, stage: str, threads: int = 2) -> None:
        self.model = model
        self.resolver = RESOLVERS[stage.partition("[")[0]]
        self.threads = threads

    def __call__(self, subgraph: int, operators: Sequence[int], inputs: Mapping[int, Array]) -> dict[int, Array]:
        """`inputs`: values of every tensor that the operators read and do not write, constants aside."""
        graph = self.model.subgraph(subgraph)
        chosen = [graph.operators[index] for index in operators]
        written = [index for op in chosen for index in op.outputs]
        read = {index for op in chosen for index in op.inputs if index >= 0} - set(written)
        outer = sorted(index for index in read if not is_constant(self.model, graph, index))
        missing = [index for index in outer if index not in inputs]
        if missing:
            raise KeyError(f"tensor {missing[0]} ({graph.tensors[missing[0]].name}) has no value")
        cut = Range(subgraph, tuple(operators), tuple(outer), tuple(written))
        with tempfile.TemporaryDirectory(prefix="edge-parity-cut-") as folder:
            path = Path(folder) / "cut.tflite"
            write_cut(self.model.path, path, cut, {f"t{i}": i for i in outer}, {f"t{i}": i for i in written})
            found = run_signature(path, "cut", {f"t{i}": inputs[i] for i in outer}, self.resolver, self.threads)
        return {index: found[f"t{index}"] for index in written}


def run_signature(
    path: Path, signature: str, values: Mapping[str, Array], resolver: str, threads: int
) -> dict[str, Array]:
    """The outputs of one call of a signature."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(path), num_threads=threads, experimental_op_resolver_type=getattr(OpResolverType, resolver)
    )
    return dict(interpreter.get_signature_runner(signature)(**values))
