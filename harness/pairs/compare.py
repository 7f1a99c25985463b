"""`edge-parity compare` of two flatbuffers: run on the same inputs, matched, and judged without an oracle.

In: two paths, and inputs or a seed. Out: a `PairComparison`. Files may come from strangers: each is checked, and runs
in a process of its own.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harness.errors import UsageError
from harness.flatbuffer.integrity import check_integrity
from harness.flatbuffer.reader import FlatbufferModel, Signature
from harness.inspection.contents import Graphs
from harness.inspection.inspect import refuse_bundle
from harness.names.stages import BUILTIN
from harness.pairs.feeding import Feed, Pair, chains
from harness.pairs.floor import in_float64
from harness.pairs.judging import LIMIT, Difference, difference, first_fault, output
from harness.pairs.matching import match
from harness.pairs.running import STAGES, Side, is_narrow, run_chain
from harness.pairs.static import Found, Static
from harness.processes.scheduler import Watcher
from harness.record.pair import Floor, PairComparison, PairFault, PairOutput, PairSignature, PairStatic

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Compared:
    """A signature of both files on one feed: what they computed, and how that compares.

    sides: A and B. held: of both, tensor -> values on builtin kernels. exact: tensor of A -> float64 values.
    pairs, differences: by tensors of B.
    """

    sides: tuple[Side, Side]
    held: tuple[dict[int, Array], dict[int, Array]]
    exact: Mapping[int, Array]
    pairs: Mapping[int, int]
    how: Mapping[int, str]
    differences: Mapping[int, Difference]
    entry: PairSignature
    fault: PairFault | None
    static: Sequence[PairStatic] = ()


class Exports(Protocol):
    """What is written of a comparison beside its record, while what the files computed is there. said: for people."""

    @property
    def said(self) -> str: ...
    def see(self, found: Compared) -> None: ...


@dataclass(frozen=True)
class FileOptions:
    """inputs: `.npz` or `.jsonl`; drawn from `seed` without. signatures: those to compare; none for all that both
    have. timeout: seconds that one file may take on one set of kernels."""

    inputs: Path | None = None
    seed: int = 0
    signatures: tuple[str, ...] = ()
    timeout: float = 3600.0


def compare_files(
    a: Path, b: Path, options: FileOptions, watcher: Watcher, exports: Sequence[Exports] = ()
) -> PairComparison:
    """Raises UsageError for what is not a flatbuffer, inputs that do not fit, and files that share no signature."""
    models = [checked_file(path) for path in (a, b)]
    quantised = [name for name, model in zip("AB", models, strict=True) if is_narrow(model)]
    pairs, problems = _shared(models[0], models[1], options.signatures)
    found = PairComparison(a=str(a), b=str(b), verdict="fail", exit_code=1, quantised=quantised, problems=problems)
    found.runtime = f"ai-edge-litert {version('ai-edge-litert')}"
    crashed, static = False, Static(models[0], models[1], bool(quantised))
    for feeds in chains(models[0], pairs, options.inputs, options.seed):
        with tempfile.TemporaryDirectory(prefix="edge-parity-") as name:
            sides, lost = run_chain(dict(zip("AB", models, strict=True)), feeds, Path(name), watcher, options.timeout)
            if lost:
                crashed = True
                found.problems += [f"{task}: {what}" for task, what in lost.items()]
                continue
            for feed, one, other in zip(feeds, sides["A"], sides["B"], strict=True):
                compared = _compared((one, other), feed, static)
                found.static += [each for each in compared.static if each not in found.static]
                found.signatures.append(compared.entry)
                found.first_fault = found.first_fault or compared.fault
                for export in exports:
                    export.see(compared)
    return concluded(found, crashed)


def concluded(found: PairComparison, crashed: bool = False) -> PairComparison:
    """With the verdict that its parts come to: nothing compared, or a problem, is not a pass."""
    failed = any(each.verdict == "fail" for entry in found.signatures for each in entry.outputs)
    over = any(entry.over and entry.floor != "price" for entry in found.signatures)
    over = over or any(each.severity == "error" for each in found.static)
    nothing = not any(entry.outputs for entry in found.signatures)
    code = 3 if crashed else int(failed or over or nothing or bool(found.problems))
    verdict = "fail" if code else "pass"
    return PairComparison.model_validate({**found.model_dump(), "exit_code": code, "verdict": verdict})


def checked_file(path: Path) -> FlatbufferModel:
    """A flatbuffer that is whole. Raises UsageError."""
    refuse_bundle(path)
    return check_integrity(path)


def _shared(a: FlatbufferModel, b: FlatbufferModel, wanted: Sequence[str]) -> tuple[list[Pair], list[str]]:
    """Signatures by name, or the only one of each; and what has no partner, in words. wanted: none for all."""
    left, right = Graphs(a).signatures, Graphs(b).signatures
    for name in wanted:
        for model, known in ((a, left), (b, right)):
            if name not in known:
                raise UsageError(f"{model.path} has no signature '{name}'; it has {named(known)}")
    if wanted:
        return [(left[name], right[name]) for name in dict.fromkeys(wanted)], []
    pairs: list[Pair] = [(entry, right[name]) for name, entry in left.items() if name in right]
    if not pairs and len(left) == len(right) == 1:
        pairs = [(next(iter(left.values())), next(iter(right.values())))]
    if not pairs:
        raise UsageError(
            f"{a.path} has the signatures {named(left)} and {b.path} has {named(right)}; compare files that share one"
        )
    names = {one.name for pair in pairs for one in pair}
    lone = [f"signature {name} is in A alone" for name in left if name not in names]
    return pairs, lone + [f"signature {name} is in B alone" for name in right if name not in names]


def named(signatures: Mapping[str, Signature]) -> str:
    """In words."""
    return ", ".join(name or "one without a name" for name in signatures) or "none"


def _compared(sides: tuple[Side, Side], feed: Feed, static: Static) -> Compared:
    a, b = sides
    held_a, held_b = a.tensors(), b.tensors()
    matched = match(a.graph, b.graph, _known(a.signature, b.signature), held_a, held_b)
    read = static.of(a.signature, b.signature, matched.pairs)
    # A narrow file has no floor: kernels of narrow numbers round otherwise than their float64 definition.
    exact, undefined = ({}, []) if static.narrow else in_float64(a.model, a.signature.subgraph, a.inputs(), held_a)
    pairs = {
        there: here
        for there, here in matched.pairs.items()
        if there in held_b and here in held_a and (held_a[here].size or held_b[there].size)
    }
    differences = {there: difference(held_a[here], held_b[there], exact.get(here)) for there, here in pairs.items()}
    outputs = list(_outputs(sides, exact, read.priced))
    told = list(read.differences)
    if not read.priced and all(one.verdict == "pass" for one in outputs if one.stage == BUILTIN):
        # What differs on the way to outputs that agree is not a difference of the files: it is another tensor.
        others = {
            op.index for op in b.graph.operators for at in op.outputs if at in pairs and not differences[at].passed
        }
        told = [each for each in told if each.severity == "error" or each.b.index not in others]
        pairs = {there: here for there, here in pairs.items() if differences[there].passed}
        differences = {there: found for there, found in differences.items() if found.passed}
    fault = None if read.priced else _fault(sides, (held_a, held_b), pairs, differences, feed, read)
    floor: Floor = "price" if read.priced else "rounding" if undefined or static.narrow else "float64"
    entry = _entry(sides, feed, differences, outputs, floor)
    entry.matched, entry.undefined = dict(Counter(matched.how[there] for there in pairs)), undefined
    return Compared(sides, (held_a, held_b), exact, pairs, matched.how, differences, entry, fault, told)


def _known(a: Signature, b: Signature) -> dict[int, int]:
    """Inputs and outputs, tensors of B -> of A: the same by their names there."""
    names = list(a.inputs) if set(a.inputs) == set(b.inputs) else list(b.inputs)
    found = {b.inputs[there]: a.inputs[here] for there, here in zip(names, a.inputs, strict=False)}
    return found | {index: a.outputs[name] for name, index in b.outputs.items() if name in a.outputs}


def _fault(
    sides: tuple[Side, Side],
    held: tuple[dict[int, Array], dict[int, Array]],
    pairs: Mapping[int, int],
    differences: Mapping[int, Difference],
    feed: Feed,
    read: Found,
) -> PairFault | None:
    a, b = sides
    fault = first_fault(a.signature.name, (a.graph, b.graph), pairs, differences, held)
    if fault is not None:
        fault.inputs = feed.told
        kinds = f"{fault.a.kind} in A is {fault.b.kind} in B" if fault.a.kind != fault.b.kind else ""
        fault.why = "; ".join(filter(None, (fault.why, read.why(fault.b.index) or kinds)))
    return fault


def _entry(
    sides: tuple[Side, Side],
    feed: Feed,
    differences: Mapping[int, Difference],
    outputs: list[PairOutput],
    floor: Floor,
) -> PairSignature:
    a, b = sides
    worst = max(differences, key=lambda index: differences[index].excess, default=None)
    return PairSignature(
        name=a.signature.name,
        other_name=b.signature.name,
        inputs=feed.told,
        floor=floor,
        tensors=len(b.of_inputs()),
        matched={},
        over=sum(not found.passed for found in differences.values()),
        worst=differences[worst].excess if worst is not None else None,
        worst_tensor=b.graph.tensors[worst].name if worst is not None else "",
        outputs=outputs,
    )


def _outputs(sides: tuple[Side, Side], exact: Mapping[int, Array], priced: bool) -> Iterator[PairOutput]:
    a, b = sides
    for stage in STAGES:
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


__all__ = ["LIMIT", "Compared", "Exports", "FileOptions", "compare_files"]
