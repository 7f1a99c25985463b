"""Find the operator that makes a tap wrong, and whose fault it is.

In: the range of operators between the reference's values and the tap, those values, the reference's value of the tap,
and a way to run operators on the stage's runtime. Out: an `OpFault`. Three questions, in this order:

1. Does every operator compute what it says? The first that does not is the kernel's fault (`checks.py`).
2. If they all do, the graph or its constants are wrong. Which operator has an output that the re-authored model never
   computes, though all that it reads is there (`matching.py`)? Between it and the tap, or just above it among the
   operators that only move values, lies the fault.
3. Which single change there makes the tap right (`repairs.py`)? Its operator is the one, and the change is the proof.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from harness.flatbuffer.cut import Range
from harness.operators.checks import Checked, RunRange, check_kernels
from harness.operators.definitions import Array, define
from harness.operators.evaluate import Evaluator, Key, Node, wide
from harness.operators.matching import RecordedTaps
from harness.operators.repairs import Repair, repairs, rewired
from harness.record.record import FaultyOperator

CONVERTER = "converter"
KERNEL = "kernel"
_CLOSED = 0.05  # a repair leaves at most this share of the error
_MOVING = ("RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "CONCATENATION", "BROADCAST_TO", "SELECT_V2", "CAST")


@dataclass(frozen=True)
class OpFault:
    """Where in a flatbuffer a tap goes wrong.

    whose: "kernel" or "converter". op, index, subgraph: the operator's kind, and its numbers in the file.
    composites: names of the composites that it lies in, outermost first. tensor: its output's name in the file.
    why: in words. error: of the tap, as a share of its largest value; after: the same with the repair, None without.
    """

    whose: str
    op: str
    index: int
    subgraph: int
    composites: tuple[str, ...]
    tensor: str
    why: str
    error: float
    after: float | None = None

    def recorded(self, signature: str) -> FaultyOperator:
        """As the record holds it. signature: the first in which it shows."""
        return FaultyOperator(**{**asdict(self), "composites": list(self.composites), "signature": signature})


@dataclass(frozen=True)
class Question:
    """inputs: values of the range's inputs, by tensor. tap: the tensor that is wrong. expected: what it should be."""

    range: Range
    inputs: Mapping[int, Array]
    tap: int
    expected: Array


def share(found: Array, expected: Array) -> float:
    """The largest difference over the largest value; infinite where one is not a number."""
    size = float(np.abs(expected).max()) or 1.0
    with np.errstate(invalid="ignore"):
        worst = float(np.abs(wide(found).reshape(-1) - wide(expected).reshape(-1)).max())
    return worst / size if np.isfinite(worst) else float("inf")


def find_fault(
    evaluator: Evaluator, question: Question, run: RunRange, recorded: RecordedTaps | None, agreed: float
) -> OpFault | None:
    """The operator that makes the tap wrong, or None if the tap is right on these inputs.

    recorded: None where what is expected comes from the same file, so that a kernel alone can be wrong.
    agreed: the share of a tensor's largest value by which two right float32 computations of it may differ.
    """
    cut = question.range
    whole = run(cut.subgraph, cut.operators, question.inputs)
    error = share(whole[question.tap], question.expected)
    if error <= agreed:
        return None
    kernel = _wrong_kernel(evaluator, question, _after(cut, whole, run))
    blamed = None if kernel is None else _kernel_fault(evaluator, kernel, error)
    if recorded is None:
        return blamed
    try:
        by_definition = _Graph(evaluator, question, agreed)
    except NotImplementedError:
        return blamed
    # A composite's kernel may be right where its decomposition is not: it is to blame only if the graph is not.
    if blamed is not None and by_definition.error <= max(agreed, _CLOSED * error):
        return blamed
    return by_definition.fault(recorded) or blamed


def _after(cut: Range, whole: dict[int, Array], run: RunRange) -> RunRange:
    """Runs ranges, but for the one that was run already."""

    def run_other(subgraph: int, operators: Sequence[int], inputs: Mapping[int, Array]) -> dict[int, Array]:
        done = (subgraph, tuple(operators)) == (cut.subgraph, tuple(cut.operators))
        return whole if done else run(subgraph, operators, inputs)

    return run_other


def _wrong_kernel(evaluator: Evaluator, question: Question, run: RunRange) -> Checked | None:
    cut = question.range
    checked = check_kernels(evaluator, cut.subgraph, cut.operators, question.inputs, run)
    return next((item for item in checked if not item.right), None)


def _kernel_fault(evaluator: Evaluator, kernel: Checked, error: float) -> OpFault:
    op, graph = kernel.operator, evaluator.graph(kernel.subgraph)
    why = (
        f"on the inputs that it was given its output is off by {kernel.error:.3g} from what {op.composite or op.kind} "
        f"with its options comes to in float64, {kernel.ratio:.3g} times what rounding allows"
    )
    return OpFault(
        KERNEL,
        op.composite or op.kind,
        op.index,
        kernel.subgraph,
        kernel.composites,
        graph.tensors[op.outputs[0]].name,
        why,
        error,
    )


class _Graph:
    """The range by its definitions: what the graph says, whoever runs it."""

    def __init__(self, evaluator: Evaluator, question: Question, agreed: float) -> None:
        self.evaluator = evaluator
        self.question = question
        self.agreed = agreed
        cut = question.range
        flat = evaluator.flat(cut.subgraph, cut.operators)
        self.nodes = flat.nodes
        self.tap = flat.key_of(question.tap)
        self.given: dict[Key, Array] = {
            ((), cut.subgraph, index): wide(values) for index, values in question.inputs.items()
        }
        self.values = evaluator.run(self.nodes, self.given)
        self.error = share(self.values[self.tap], question.expected)
        self.writer = {node.output: node for node in self.nodes}

    def fault(self, recorded: RecordedTaps) -> OpFault | None:
        if self.error <= self.agreed:
            return None
        suspects = self._suspects(recorded)
        for node in self._neighbourhood(suspects):
            repair, after = self._repaired(node)
            if repair is not None:
                why = f"{repair.change}: with that the tap is off by {after:.2g} instead of {self.error:.2g}"
                return self._fault(node, why, after)
        node = suspects[0] if suspects else self.nodes[-1]
        return self._fault(node, self._unexplained(node, recorded))

    def _suspects(self, recorded: RecordedTaps) -> list[Node]:
        """Operators that lead to the tap through tensors the re-authored model never computes, and read what it does.

        In execution order. The tap itself counts as never computed, since it is wrong.
        """
        known: dict[Key, bool] = {self.tap: False}

        def computed(key: Key) -> bool:
            if key not in known:
                known[key] = key not in self.writer or recorded.find(self.values[key], self._tolerance) is not None
            return known[key]

        found: set[int] = set()
        waiting, seen = [self.tap], {self.tap}
        while waiting:
            node = self.writer[waiting.pop()]
            unknown = [key for key in node.inputs if key is not None and not computed(key)]
            if not unknown:
                found.add(self.nodes.index(node))
            waiting += [key for key in unknown if key not in seen]
            seen.update(unknown)
        return [self.nodes[index] for index in sorted(found)]

    @property
    def _tolerance(self) -> float:
        """Well above rounding, and well below the fault."""
        return min(max(self.agreed, 1e-5), self.error / 4)

    def _neighbourhood(self, suspects: Sequence[Node]) -> Iterator[Node]:
        """The suspects with the operators above them that only move values, in execution order; then all others."""
        near: set[int] = set()
        waiting = [self.nodes.index(node) for node in suspects]
        while waiting:
            index = waiting.pop()
            if index in near:
                continue
            near.add(index)
            above = [self.writer[key] for key in self.nodes[index].inputs if key in self.writer]
            waiting += [self.nodes.index(node) for node in above if node.operator.kind in _MOVING]
        for index in (*sorted(near), *(n for n in range(len(self.nodes)) if n not in near)):
            yield self.nodes[index]

    def _repaired(self, node: Node) -> tuple[Repair | None, float]:
        """The first change at an operator that makes the tap right, and the error that is left."""
        call = self.evaluator.call(node, self.values)
        for repair in (*repairs(call), *rewired(call, self._others(node))):
            after = self._error_with(node, repair.values)
            if after <= max(self.agreed, _CLOSED * self.error) and after < self.error / 4:
                return repair, after
        return None, self.error

    def _others(self, node: Node) -> dict[str, Array]:
        """What stands beside an operator's inputs: tensors of the range that are there before it, and constants."""
        number = self.nodes.index(node)
        before = [*self.given, *(other.output for other in self.nodes[:number])]
        graph = self.evaluator.graph(node.subgraph)
        found = {f"tensor {key[2]}": self.values[key] for key in before if key[0] == node.path}
        shapes = {graph.tensors[index].shape for index in node.operator.inputs if index >= 0}
        for tensor in graph.tensors:
            if tensor.shape in shapes and (node.path, node.subgraph, tensor.index) not in self.writer:
                values = self.evaluator.constant(node.subgraph, tensor.index)
                if values is not None:
                    found[f"the constant {tensor.index} ({tensor.path[-1]})"] = values
        return found | dict(self._elsewhere(node))

    def _error_with(self, node: Node, values: Array) -> float:
        """The tap's error if an operator gave other values: what depends on it is computed again."""
        if values.shape != self.values[node.output].shape:
            return float("inf")
        changed: dict[Key, Array] = {node.output: values}
        for other in self.nodes[self.nodes.index(node) + 1 :]:
            if any(key in changed for key in other.inputs):
                call = self.evaluator.call(other, ChainMap(changed, self.values))
                try:
                    with np.errstate(all="ignore"):
                        changed[other.output] = define(call)[0]
                except (ValueError, IndexError):
                    return float("inf")  # what comes after cannot take these values
        if self.tap not in changed:
            return float("inf")
        return share(changed[self.tap], self.question.expected)

    def _unexplained(self, node: Node, recorded: RecordedTaps) -> str:
        """What can be said of an operator that no single change fixes."""
        not_known = []
        for index in node.operator.inputs:
            values = self.evaluator.constant(node.subgraph, index) if index >= 0 else None
            if values is None or values.size < 2 or recorded.find(values, 0.0) is not None:
                continue
            nearest = recorded.nearest(values)
            if nearest is not None and nearest[1] < 1:
                name, off, count = nearest
                return (
                    f"its constant {index} is not the re-authored model's: {count} of {values.size} numbers differ "
                    f"from {name}, by up to {off:.2g} of the largest"
                )
            if np.issubdtype(values.dtype, np.floating):
                not_known.append(f"{index} ({self.evaluator.graph(node.subgraph).tensors[index].path[-1]})")
        never = "the re-authored model never computes its output"
        if not_known:
            constants = f"constant{'s' if len(not_known) > 1 else ''} {' and '.join(not_known)}"
            return f"it does what it says, but {never}; whether its {constants} holds what it should is not known"
        return f"all that it reads is what the re-authored model computes and it does what it says, but {never}"

    def _elsewhere(self, node: Node) -> Iterator[tuple[str, Array]]:
        """Constants of other subgraphs that have the name and the shape of one that an operator reads, and differ."""
        for index in node.operator.inputs:
            mine = self.evaluator.constant(node.subgraph, index) if index >= 0 else None
            if mine is None or mine.size < 2 or not np.issubdtype(mine.dtype, np.floating):
                continue
            tensor = self.evaluator.graph(node.subgraph).tensors[index]
            for signature, entry in self.evaluator.model.signatures.items():
                for other in self.evaluator.graph(entry.subgraph).tensors:
                    twin = other.shape == tensor.shape and other.buffer != tensor.buffer
                    if not twin or not tensor.name or other.paths != tensor.paths:
                        continue
                    values = self.evaluator.constant(entry.subgraph, other.index)
                    if values is not None and not np.array_equal(values, mine):
                        count = int((values != mine).sum())
                        here = f"{tensor.path[-1]}, {count} of whose {mine.size} numbers are others here"
                        yield f"{signature}'s constant {other.index} ({here})", values

    def _fault(self, node: Node, why: str, after: float | None = None) -> OpFault:
        op, graph = node.operator, self.evaluator.graph(node.subgraph)
        name = graph.tensors[op.outputs[0]].name
        return OpFault(CONVERTER, op.kind, op.index, node.subgraph, node.composites, name, why, self.error, after)
