"""`edge-parity compare` of two flatbuffers: run on the same inputs, matched, and judged without an oracle.

In: two paths, and inputs or a seed. Out: a `PairComparison`. Files may come from strangers: each is checked, and runs
in a process of its own.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.flatbuffer.constants import NARROW
from harness.flatbuffer.integrity import check_integrity
from harness.flatbuffer.quantised import constant
from harness.flatbuffer.reader import FlatbufferModel, Operator, Signature
from harness.inspection.contents import Graphs
from harness.inspection.inspect import refuse_bundle
from harness.names.stages import BUILTIN, XNNPACK
from harness.pairs.floor import in_float64
from harness.pairs.inputs import drawn_inputs, given_inputs
from harness.pairs.judging import LIMIT, difference, first_fault, output
from harness.pairs.matching import computed, match
from harness.processes.scheduler import Task, TaskResult, Watcher, run_tasks
from harness.record.pair import Floor, PairComparison, PairFault, PairOutput, PairSignature
from harness.stages.litert.all_tensors import INPUTS, TENSORS, TensorsRead, TensorsRequest, outputs_file, write_arrays

Array = np.ndarray[Any, Any]
_TARGET = "harness.stages.litert.all_tensors:all_tensors"
_STAGES = (BUILTIN, XNNPACK)
_MEMORY_MB = 2500  # of the processes that run the files; a file that takes more runs alone


@dataclass(frozen=True)
class Side:
    """One of the two files, and what it computed of a signature."""

    model: FlatbufferModel
    signature: Signature
    folder: Path

    @property
    def graph(self) -> Any:
        return self.model.subgraph(self.signature.subgraph)

    def tensors(self) -> dict[int, Array]:
        with np.load(self.folder / TENSORS, allow_pickle=False) as held:
            return {int(name): held[name] for name in held.files}

    def outputs(self, stage: str) -> dict[str, Array]:
        with np.load(self.folder / outputs_file(stage), allow_pickle=False) as held:
            return {name: held[name] for name in held.files}


def compare_files(
    a: Path, b: Path, inputs: Path | None, seed: int, watcher: Watcher, timeout: float = 3600.0
) -> PairComparison:
    """Raises UsageError for what is no flatbuffer, inputs that do not fit, and files that share no signature."""
    models = []
    for path in (a, b):
        refuse_bundle(path)
        models.append(check_integrity(path))
    quantised = [name for name, model in zip("AB", models, strict=True) if _is_narrow(model)]
    shared, problems = _shared(models[0], models[1])
    found = PairComparison(a=str(a), b=str(b), verdict="fail", exit_code=1, quantised=quantised, problems=problems)
    found.runtime = f"ai-edge-litert {version('ai-edge-litert')}"
    crashed = False
    for one, other in shared:
        with tempfile.TemporaryDirectory(prefix="edge-parity-") as name:
            sides = _prepared(models, (one, other), Path(name), inputs, seed)
            source = str(inputs) if inputs else f"seed {seed}"
            results = run_tasks(
                list(_tasks(sides, timeout)), Path(name) / "run.log", watcher, cores=2, memory_mb=_MEMORY_MB
            )
            lost = [
                f"{task}: {result.detail.split(';')[0]}" for task, result in results.items() if result.status != "ok"
            ]
            if lost:
                crashed = True
                found.problems += lost
                continue
            entry, fault = _compared(sides, source, bool(quantised), results)
            found.signatures.append(entry)
            found.first_fault = found.first_fault or fault
    failed = any(each.verdict == "fail" for entry in found.signatures for each in entry.outputs)
    over = any(entry.over for entry in found.signatures) and not quantised
    nothing = not any(entry.outputs for entry in found.signatures)
    found.exit_code = 3 if crashed else int(failed or over or nothing or bool(found.problems))
    return PairComparison.model_validate({**found.model_dump(), "verdict": "fail" if found.exit_code else "pass"})


def _is_narrow(model: FlatbufferModel) -> bool:
    graphs = (model.subgraph(index) for index in range(model.subgraph_count))
    kinds = NARROW | {"FLOAT16", "INT16", "UINT8"}
    return any(
        graph.tensors[index].dtype in kinds
        for graph in graphs
        for op in graph.operators
        for index in (*op.inputs, *op.outputs)
        if index >= 0
    )


def _shared(a: FlatbufferModel, b: FlatbufferModel) -> tuple[list[tuple[Signature, Signature]], list[str]]:
    """Signatures by name, or the only one of each; and what has no partner, in words."""
    left, right = Graphs(a).signatures, Graphs(b).signatures
    pairs = [(entry, right[name]) for name, entry in left.items() if name in right]
    if not pairs and len(left) == len(right) == 1:
        pairs = [(next(iter(left.values())), next(iter(right.values())))]
    if not pairs:
        raise UsageError(
            f"{a.path} has the signatures {', '.join(left)} and {b.path} has {', '.join(right)}; compare files "
            "that share one"
        )
    names = {one.name for pair in pairs for one in pair}
    lone = [f"signature {name} is in A alone" for name in left if name not in names]
    return pairs, lone + [f"signature {name} is in B alone" for name in right if name not in names]


def _prepared(
    models: list[FlatbufferModel], pair: tuple[Signature, Signature], folder: Path, inputs: Path | None, seed: int
) -> tuple[Side, Side]:
    """Both sides with their inputs written: A's, under the names that B has for them."""
    sides = []
    arrays: dict[str, Array] = {}
    for name, model, signature in zip("AB", models, pair, strict=True):
        side = Side(model, signature, folder / name)
        side.folder.mkdir()
        if name == "A":
            arrays = (
                given_inputs(inputs, model, side.graph, signature)
                if inputs
                else drawn_inputs(model, side.graph, signature, seed)
            )
        elif set(signature.inputs) != set(arrays):
            if len(signature.inputs) != len(arrays):
                raise UsageError(
                    f"{model.path} takes {', '.join(signature.inputs)} and the other file {', '.join(arrays)}; compare "
                    "files of one model"
                )
            arrays = dict(zip(signature.inputs, arrays.values(), strict=True))
        _check_shapes(side, arrays)
        write_arrays(side.folder / INPUTS, arrays)
        sides.append(side)
    return sides[0], sides[1]


def _check_shapes(side: Side, arrays: Mapping[str, Array]) -> None:
    for name, values in arrays.items():
        shape = side.model.open_shape(side.signature.subgraph, side.signature.inputs[name])
        fits = len(shape) == values.ndim and all(w in (-1, g) for w, g in zip(shape, values.shape, strict=True))
        if not fits:
            raise UsageError(
                f"{side.model.path} takes '{name}' as {list(shape)}, and the other file as {list(values.shape)}; "
                "compare files of one model, converted for one size"
            )


def _tasks(sides: tuple[Side, Side], timeout: float) -> Iterator[Task]:
    for name, side in zip("AB", sides, strict=True):
        size = len(side.model.mapped) / 1e6
        for stage in _STAGES:
            request = TensorsRequest(
                file=str(side.model.path.resolve()),
                signature=side.signature.name,
                folder=str(side.folder),
                stage=stage,
                tensors=_of_inputs(side),
            )
            memory = 300 + (4 if _is_narrow(side.model) else 1) * (1.0 if stage == BUILTIN else 2.2) * size
            yield Task(
                f"{name} on {stage}", _TARGET, request.model_dump(), TensorsRead, memory_mb=memory, timeout=timeout
            )


def _of_inputs(side: Side) -> list[int]:
    """The tensors that an input has a part in. A weight that is dequantised as the file runs has none, and is large."""
    graph, found = side.graph, set(side.signature.inputs.values())
    for op in graph.operators:
        if found & set(op.inputs):
            found |= set(op.outputs)
    return [index for index in computed(graph) if index in found]


def _compared(
    sides: tuple[Side, Side], source: str, priced: bool, results: Mapping[str, TaskResult]
) -> tuple[PairSignature, PairFault | None]:
    a, b = sides
    held_a, held_b = a.tensors(), b.tensors()
    with np.load(a.folder / INPUTS, allow_pickle=False) as given:
        inputs = {a.signature.inputs[name]: given[name] for name in given.files}
    exact, undefined = ({}, []) if priced else in_float64(a.model, a.signature.subgraph, inputs, held_a)
    names = dict(zip(b.signature.inputs, a.signature.inputs, strict=False))
    known = {b.signature.inputs[there]: a.signature.inputs[names[there]] for there in names}
    known |= {index: a.signature.outputs[n] for n, index in b.signature.outputs.items() if n in a.signature.outputs}
    matched = match(a.graph, b.graph, known, held_a, held_b)
    pairs = {there: here for there, here in matched.pairs.items() if there in held_b and here in held_a}
    differences = {there: difference(held_a[here], held_b[there], exact.get(here)) for there, here in pairs.items()}
    outputs = list(_outputs(sides, exact, priced))
    if not priced and all(one.verdict == "pass" for one in outputs if one.stage == BUILTIN):
        # What differs on the way to outputs that agree is no difference of the files: it is another tensor.
        pairs = {there: here for there, here in pairs.items() if differences[there].passed}
        differences = {there: found for there, found in differences.items() if found.passed}
    worst = max(differences, key=lambda index: differences[index].excess, default=None)
    fault = None if priced else first_fault(a.signature.name, (a.graph, b.graph), pairs, differences, (held_a, held_b))
    if fault is not None and not fault.why:
        fault.why = _why(sides, fault)
    floor: Floor = "price" if priced else "rounding" if undefined else "float64"
    entry = PairSignature(
        name=a.signature.name,
        other_name=b.signature.name,
        inputs=source,
        floor=floor,
        tensors=len(_of_inputs(b)),
        matched=dict(Counter(matched.how[there] for there in pairs)),
        over=sum(not found.passed for found in differences.values()),
        worst=differences[worst].excess if worst is not None else None,
        worst_tensor=b.graph.tensors[worst].name if worst is not None else "",
        outputs=outputs,
        undefined=undefined,
    )
    return entry, fault


def _outputs(sides: tuple[Side, Side], exact: Mapping[int, Array], priced: bool) -> Iterator[PairOutput]:
    a, b = sides
    for stage in _STAGES:
        left, right = a.outputs(stage), b.outputs(stage)
        if len(left) == len(right) == 1:
            right = dict(zip(left, right.values(), strict=True))
        for name in dict.fromkeys([*left, *right]):
            if name not in left or name not in right:
                where = "A" if name in left else "B"
                yield PairOutput(name=name, stage=stage, verdict="fail", problem=f"it is an output of {where} alone")
                continue
            index = a.signature.outputs.get(name)
            yield output(name, stage, left[name], right[name], None if index is None else exact.get(index), priced)


def _why(sides: tuple[Side, Side], fault: PairFault) -> str:
    """What differs in the operator itself: its kind, its options, its constants."""
    a, b = (
        next((op for op in side.graph.operators if op.index == place.index), None)
        for side, place in zip(sides, (fault.a, fault.b), strict=True)
    )
    if a is None or b is None:
        return ""
    if a.kind != b.kind:
        return f"{a.kind} in A is {b.kind} in B"
    options = [side.model.options(side.signature.subgraph, op.index) for side, op in zip(sides, (a, b), strict=True)]
    for key in options[0]:
        if str(options[0][key]) != str(options[1].get(key)):
            return f"its option {key} is {options[0][key]} in A and {options[1].get(key)} in B"
    return next(_constants(sides, a, b), "")


def _constants(sides: tuple[Side, Side], a: Operator, b: Operator) -> Iterator[str]:
    for place, (here, there) in enumerate(zip(a.inputs, b.inputs, strict=False)):
        values = [
            constant(side.model, side.graph, index) if index >= 0 else None
            for side, index in zip(sides, (here, there), strict=True)
        ]
        one, other = values
        if one is None or other is None:
            continue
        what = f"its constant {place} ({sides[0].graph.tensors[here].name[-60:]})"
        if one.shape != other.shape:
            yield f"{what} is {list(one.shape)} in A and {list(other.shape)} in B"
        elif not np.array_equal(one, other):
            wrong = int((one != other).sum())
            gap = float(np.abs(one.astype(np.float64) - other).max())
            yield f"{what} differs in {wrong} of {one.size} numbers, by up to {gap:.3g}"


__all__ = ["LIMIT", "compare_files"]
