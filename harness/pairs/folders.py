"""Two folders of traces compared: a phone's, a C++ program's, those that a run kept. docs/traces.md has the format.

In: two folders. Out: a `PairComparison`, with an entry for each input. Where A was kept by a run, beside the traces of
its reference, errors are counted in what float32 costs there.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.rows import measure
from harness.errors import UsageError
from harness.names.stages import HF, ORACLE
from harness.pairs.judging import Difference, difference, worst_number
from harness.plain import one_line
from harness.record.pair import PairComparison, PairFault, PairOperator, PairOutput, PairSignature
from harness.store.trace import MANIFEST, NOISE_SAMPLES, sample
from harness.system.reading import MB, check_file, read_json

Array = np.ndarray[Any, Any]
FORMAT = "edge-parity-traces/1"
_REMEDY = "docs/traces.md has the format"
_LARGEST = 20_000 * MB
_STAGE = "traces"


@dataclass
class TracedInput:
    """One input. tokens: empty where they are not told. taps: name -> values, in the order of the file."""

    id: str
    tokens: list[int]
    taps: Mapping[str, Array] = field(default_factory=dict)


def is_trace_folder(path: Path) -> bool:
    return (path / MANIFEST).is_file() or any(path.glob(f"*/{MANIFEST}"))


def read_folder(folder: Path) -> dict[str, TracedInput]:
    """By input. Raises UsageError for what is neither the documented format nor what `--keep-traces` keeps."""
    if not (folder / MANIFEST).is_file():
        found = {place.parent.name: _kept(place.parent) for place in sorted(folder.glob(f"*/{MANIFEST}"))}
        if not found:
            raise UsageError(f"{folder} has no {MANIFEST}; {_REMEDY}")
        return found
    manifest = read_json(folder / MANIFEST, _REMEDY)
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("inputs"), list)
    ):
        raise UsageError(f"{folder / MANIFEST} is no manifest of '{FORMAT}'; {_REMEDY}")
    entries = [_told(folder, entry) for entry in manifest["inputs"]]
    return {entry.id: entry for entry in entries}


def _told(folder: Path, entry: Any) -> TracedInput:
    """An input of the documented format."""
    good = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("id", "file"))
    tokens = entry.get("tokens", []) if good else None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise UsageError(f"{folder / MANIFEST}: an input needs 'id', 'file' and 'tokens'; {_REMEDY}")
    path = folder / entry["file"]
    if path.resolve().parent != folder.resolve():
        raise UsageError(f"{folder / MANIFEST}: {entry['file']} is not a file in that folder; {_REMEDY}")
    check_file(path, _REMEDY, _LARGEST)
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            arrays: dict[str, Array] = load_file(path)
        else:
            with np.load(path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError, TypeError, KeyError) as error:
        raise UsageError(f"{path} holds no arrays ({one_line(error, 100)}); {_REMEDY}") from None
    except Exception as error:  # safetensors raises a class of its own
        raise UsageError(f"{path} holds no arrays ({one_line(error, 100)}); {_REMEDY}") from None
    for tap, values in arrays.items():
        if values.dtype.kind not in "fiu" or not values.ndim:
            raise UsageError(
                f"{path}: '{tap}' is {values.dtype} {list(values.shape)}, and a tap is an array of numbers"
            )
        if tokens and len(tokens) not in values.shape[:2]:
            raise UsageError(
                f"{path}: '{tap}' is {list(values.shape)}, and the input has {len(tokens)} tokens; a tap is [time, ...]"
            )
    return TracedInput(entry["id"], tokens, {tap: _of_time(values) for tap, values in arrays.items()})


def _of_time(values: Array) -> Array:
    """`[1, time, ...]` as `[time, ...]`."""
    return values[0] if values.ndim > 1 and values.shape[0] == 1 else values


class _Files(Mapping[str, Array]):
    """The taps of a kept trace, mapped."""

    def __init__(self, folder: Path, taps: list[str]) -> None:
        self.folder, self.taps = folder, taps

    def __getitem__(self, tap: str) -> Array:
        path = self.folder / f"{tap}.npy"
        check_file(path, "run the model again with --keep-traces", _LARGEST)
        try:
            values: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise UsageError(f"{path} is no array ({one_line(error, 100)}); run the model again") from None
        return _of_time(values)

    def __iter__(self) -> Any:
        return iter(self.taps)

    def __len__(self) -> int:
        return len(self.taps)


def _kept(folder: Path) -> TracedInput:
    """An input as `--keep-traces` keeps it; in the order in which the stage computed."""
    try:
        named = json.loads((folder / MANIFEST).read_text())["taps"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"{folder / MANIFEST} is no manifest of a trace ({one_line(error, 80)}); {_REMEDY}") from None
    return TracedInput(folder.name, [], _Files(folder, [tap for tap in named if (folder / f"{tap}.npy").is_file()]))


def compare_folders(a: Path, b: Path) -> PairComparison:
    """Raises UsageError where one is no folder of traces, or they share no input."""
    left, right = read_folder(a), read_folder(b)
    shared = [name for name in left if name in right]
    if not shared:
        raise UsageError(
            f"{a} has the inputs {', '.join(left)} and {b} has {', '.join(right)}; compare traces of one input"
        )
    found = PairComparison(a=str(a), b=str(b), verdict="fail", exit_code=1)
    found.problems = [f"input {name} is in A alone" for name in left if name not in right]
    found.problems += [f"input {name} is in B alone" for name in right if name not in left]
    for name in shared:
        one, other = left[name], right[name]
        if one.tokens and other.tokens and one.tokens != other.tokens:
            raise UsageError(f"input {name} has other tokens in {a} than in {b}; trace the same ones")
        entry, fault = _compared(one, other, a)
        found.signatures.append(entry)
        found.first_fault = found.first_fault or fault
        found.problems += [f"tap {tap} of {name} is in A alone" for tap in one.taps if tap not in other.taps][:8]
    failed = any(each.verdict == "fail" for entry in found.signatures for each in entry.outputs)
    nothing = not any(entry.outputs for entry in found.signatures)
    found.exit_code = int(failed or nothing or bool(found.problems))
    return PairComparison.model_validate({**found.model_dump(), "verdict": "fail" if found.exit_code else "pass"})


def _compared(a: TracedInput, b: TracedInput, folder: Path) -> tuple[PairSignature, PairFault | None]:
    outputs, fault, known = [], None, True
    for tap in a.taps:
        if tap not in b.taps:
            continue
        one, other = a.taps[tap], b.taps[tap]
        floor = _floor(folder, a.id, tap, one.shape)
        known = known and floor is not None
        found = difference(one, other, None) if floor is None else _in_floor(one, other, *floor)
        outputs.append(
            PairOutput(
                name=tap,
                stage=_STAGE,
                verdict="pass" if found.passed else "fail",
                problem=found.problem,
                excess=found.excess,
                relative=found.relative,
            )
        )
        if not found.passed and fault is None:
            place = PairOperator(kind="tap", index=-1, tensor=tap)
            furthest = worst_number(one, other, found.row)
            fault = PairFault(
                signature=a.id,
                excess=found.excess,
                relative=found.relative,
                a=place,
                b=place,
                why=found.problem,
                **furthest,
            )
    worst = max(outputs, key=lambda each: each.excess or 0.0, default=None)
    entry = PairSignature(
        name=a.id,
        other_name=b.id,
        inputs="the traces",
        floor="oracle" if known else "rounding",
        tensors=len(b.taps),
        matched={"name": len(outputs)},
        over=sum(each.verdict == "fail" for each in outputs),
        worst=worst.excess if worst else None,
        worst_tensor=worst.name if worst else "",
        outputs=outputs,
    )
    return entry, fault


def _floor(folder: Path, name: str, tap: str, shape: tuple[int, ...]) -> tuple[Array, list[Array]] | None:
    """The truth and the float32 runs of the reference that a run kept beside A; None where there are none."""
    place = folder.parent / HF
    runs = [sample(place, order) / name / f"{tap}.npy" for order in range(NOISE_SAMPLES)]
    files = [folder.parent / ORACLE / name / f"{tap}.npy", *runs]
    if not all(path.is_file() for path in files):
        return None
    exact, *samples = (_of_time(np.load(path, mmap_mode="r", allow_pickle=False)) for path in files)
    return (exact, samples) if {each.shape for each in (exact, *samples)} == {shape} else None


def _in_floor(a: Array, b: Array, exact: Array, samples: list[Array]) -> Difference:
    plain = difference(a, b, None)
    if plain.problem or not np.isfinite(exact).all() or not np.isfinite(a).all():
        return plain
    found = measure(b.reshape(a.shape), exact, samples, reference=np.asarray(a))
    return Difference(found.whole, plain.relative, found.row, passed=found.passes())
