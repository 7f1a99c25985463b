"""Two sides that are traces compared, tap by tap: folders, what a run kept, what a file computes on their inputs.

In: two `Traces`. Out: a `PairComparison`, with an entry for each input. Where one side knows what float32 costs at a
tap, errors are counted in that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.compare.rows import measure
from harness.errors import UsageError
from harness.names.stages import HF, ORACLE, REAUTHORED, present
from harness.pairs.compare import concluded
from harness.pairs.folders import Floor, TracedInput, Traces, folder_traces
from harness.pairs.judging import Difference, difference, output, snr_db, worst_number
from harness.plain import one_line
from harness.record.pair import PairComparison, PairFault, PairOperator, PairOutput, PairSignature

Array = np.ndarray[Any, Any]
STAGE = "traces"
_TOLD = 8  # taps that are named one by one


def run_traces(run: Any) -> Traces:
    """What a run kept of the re-authored model, as `import` compares with. run: its folder. Raises UsageError."""
    kept = run / "traces"
    if not kept.is_dir():
        raise UsageError(f"{run} kept no traces; run the model again with --keep-traces, or name a run that did")
    stages = [place.name for place in sorted(kept.iterdir()) if place.is_dir()]
    stage = present(REAUTHORED, stages)
    if stage not in stages:
        plain = [name for name in stages if name not in (ORACLE, HF) and not name.startswith((f"{HF}.", f"{ORACLE}."))]
        raise UsageError(f"{kept} has no {REAUTHORED}; name one of its folders: {', '.join(plain) or 'none'}")
    return folder_traces(kept / stage, whole=True)


def compare_traces(a: Traces, b: Traces) -> PairComparison:
    """Raises UsageError where they share no input, or name other tokens for one."""
    shared = [name for name in a.inputs if name in b.inputs]
    if not shared:
        raise UsageError(
            f"{a.name} has the inputs {', '.join(a.inputs)} and {b.name} has {', '.join(b.inputs)}; compare traces of "
            "one input"
        )
    found = PairComparison(a=a.name, b=b.name, verdict="fail", exit_code=1)
    found.quantised = [name for name, side in zip("AB", (a, b), strict=True) if side.narrow]
    for item in shared:
        one, another = a.inputs[item], b.inputs[item]
        if one.tokens and another.tokens and one.tokens != another.tokens:
            raise UsageError(f"input {item} has other tokens in {a.name} than in {b.name}; trace the same ones")
        entry, fault = _compared(one, another, (a, b))
        found.signatures.append(entry)
        found.first_fault = found.first_fault or fault
    for name, side, other in (("A", a, b), ("B", b, a)):
        (found.warnings if side.whole else found.problems).extend(_lone(name, side, other, shared))
    return concluded(found)


def _lone(name: str, side: Traces, other: Traces, shared: Sequence[str]) -> Iterator[str]:
    """What a side has that the other lacks, in words: inputs, and taps of those that both have. name: A or B."""
    yield from (f"input {item} is in {name} alone" for item in side.inputs if item not in other.inputs)
    for taps, items in _lone_taps(side, other, shared).items():
        what = f"tap {_listed(taps)}" if len(taps) == 1 else f"taps {_listed(taps)}"
        yield f"{what} of {_listed(items)} {'is' if len(taps) == 1 else 'are'} in {name} alone"


def _lone_taps(side: Traces, other: Traces, shared: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """Taps that the other side lacks -> the inputs on which it does."""
    found: dict[tuple[str, ...], list[str]] = {}
    for item in shared:
        lone = tuple(tap for tap in side.inputs[item].taps if tap not in other.inputs[item].taps)
        if lone:
            found.setdefault(lone, []).append(item)
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(one_line(name, 60) for name in names[:_TOLD]) + more


def _compared(a: TracedInput, b: TracedInput, sides: tuple[Traces, Traces]) -> tuple[PairSignature, PairFault | None]:
    outputs: list[PairOutput] = []
    fault, floors, priced = None, set(), any(side.narrow for side in sides)
    for tap in (tap for tap in a.taps if tap in b.taps):
        one, other = a.taps[tap], b.taps[tap]
        known = ((side.counted_in, side.floor(a.id, tap, one.shape)) for side in sides)
        counted_in, floor = next((each for each in known if each[1] is not None), ("rounding", None))
        floors.add(counted_in)
        if priced:
            outputs.append(output(tap, STAGE, one, other, None, priced))
            continue
        found = difference(one, other, None) if floor is None else _in_floor(one, other, floor)
        outputs.append(
            PairOutput(
                name=tap,
                stage=STAGE,
                verdict="pass" if found.passed else "fail",
                problem=found.problem,
                excess=found.excess,
                relative=found.relative,
                snr_db=snr_db(found) if one.dtype.kind == other.dtype.kind == "f" else None,
            )
        )
        fault = fault or (None if found.passed else _fault(a.id, tap, (one, other), found))
    worst = max(outputs, key=lambda each: each.excess or 0.0, default=None)
    entry = PairSignature(
        name=a.id,
        other_name=b.id,
        inputs="the traces",
        floor="price" if priced else floors.pop() if len(floors) == 1 else "rounding",
        tensors=len(b.taps),
        matched={"name": len(outputs)},
        over=sum(each.verdict == "fail" for each in outputs),
        worst=worst.excess if worst else None,
        worst_tensor=worst.name if worst else "",
        outputs=outputs,
    )
    return entry, fault


def _fault(item: str, tap: str, values: tuple[Array, Array], found: Difference) -> PairFault:
    place = PairOperator(kind="tap", index=-1, tensor=tap)
    return PairFault(
        signature=item,
        excess=found.excess,
        relative=found.relative,
        a=place,
        b=place,
        why=found.problem,
        **worst_number(*values, found.row),
    )


def _in_floor(a: Array, b: Array, floor: Floor) -> Difference:
    plain = difference(a, b, None)
    exact, samples = floor
    finite = np.isfinite(exact).all() and np.isfinite(a).all() and np.isfinite(b).all()
    if plain.problem or not finite or a.dtype.kind != "f" or not a.size:
        return plain
    found = measure(b.reshape(a.shape), exact, samples, reference=np.asarray(a))
    return Difference(found.whole, plain.relative, found.row, passed=found.passes())
