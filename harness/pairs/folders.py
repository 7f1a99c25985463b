"""A folder of traces read: a phone's, a C++ program's, those that a run kept. docs/traces.md has the format.

In: a folder. Out: its inputs, each with its taps and what float32 costs at them where that is known: where the folder
was kept by a run, beside the traces of its reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.errors import UsageError
from harness.names.stages import HF, ORACLE
from harness.plain import brief, one_line
from harness.record.record import RECORD_FILE, read_record
from harness.store.trace import MANIFEST, NOISE_SAMPLES, sample
from harness.system.reading import MB, check_file, read_json

Array = np.ndarray[Any, Any]
FORMAT = "edge-parity-traces/1"
_REMEDY = "docs/traces.md has the format"
_LARGEST = 20_000 * MB
Floor = tuple[Array, list[Array]]  # the truth in float64, and float32 runs


@dataclass
class TracedInput:
    """One input. tokens: empty where they are not told. taps: name -> values, in the order of the file.

    arrays: a `.npz` with what a file is given on this input, where that is not text. signature: that runs it; empty for
    the only one.
    """

    id: str
    tokens: list[int]
    taps: Mapping[str, Array] = field(default_factory=dict)
    arrays: Path | None = None
    signature: str = ""


def _unknown(item: str, tap: str, shape: tuple[int, ...]) -> Floor | None:
    return None


@dataclass
class Traces:
    """One side of a comparison. name: what was given on the command line.

    floor: (input, tap, shape) -> what float32 costs there, if that is known, by `counted_in`. whole: whether it gives
    more than the other side need have, as a run or a file does. narrow: whether it was computed with narrow numbers.
    """

    name: str
    inputs: dict[str, TracedInput]
    floor: Callable[[str, str, tuple[int, ...]], Floor | None] = _unknown
    whole: bool = False
    narrow: bool = False
    counted_in: Literal["oracle", "float64"] = "oracle"


def is_trace_folder(path: Path) -> bool:
    return (path / MANIFEST).is_file() or any(path.glob(f"*/{MANIFEST}"))


def read_folder(folder: Path) -> dict[str, TracedInput]:
    """By input. Raises UsageError for what is neither the documented format nor what `--keep-traces` keeps."""
    if not (folder / MANIFEST).is_file():
        tokens = _tokens_of_run(folder)
        places = [place.parent for place in sorted(folder.glob(f"*/{MANIFEST}"))]
        if not places:
            raise UsageError(f"{folder} has no {MANIFEST}; {_REMEDY}")
        return {place.name: _kept(place, tokens.get(place.name, [])) for place in places}
    manifest = read_json(folder / MANIFEST, _REMEDY)
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("inputs"), list)
    ):
        raise UsageError(f"{folder / MANIFEST} is not a manifest of '{FORMAT}'; {_REMEDY}")
    entries = [_told(folder, entry) for entry in manifest["inputs"]]
    found = {entry.id: entry for entry in entries}
    if not found or len(found) != len(entries):
        raise UsageError(f"{folder / MANIFEST} names no input, or one of them twice; {_REMEDY}")
    return found


def _tokens_of_run(folder: Path) -> dict[str, list[int]]:
    """By input, where a stage's folder is in the traces of a run."""
    run = folder.absolute().parent.parent
    return {item.id: item.token_ids for item in read_record(run).inputs} if (run / RECORD_FILE).is_file() else {}


def _told(folder: Path, entry: Any) -> TracedInput:
    """An input of the documented format."""
    good = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("id", "file"))
    tokens = entry.get("tokens", []) if good else None
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise UsageError(f"{folder / MANIFEST}: an input needs 'id', 'file' and 'tokens'; {_REMEDY}")
    path = _file_in(folder, entry["file"])
    for tap, values in (arrays := _arrays(path)).items():
        if values.dtype.kind not in "fiub" or not values.ndim:
            raise UsageError(
                f"{path}: {brief(tap)} is {values.dtype} {list(values.shape)}, and a tap is an array of numbers"
            )
        if tokens and len(tokens) not in values.shape[:2]:
            raise UsageError(
                f"{path}: {brief(tap)} is {list(values.shape)}, and the input has {len(tokens)} tokens; "
                "a tap is [time, ...]"
            )
    given, signature = entry.get("arrays"), entry.get("signature", "")
    if not isinstance(signature, str) or not isinstance(given, str | None) or (given is not None and tokens):
        raise UsageError(
            f"{folder / MANIFEST}: 'arrays' is a file in that folder, in place of 'tokens', and 'signature' a name; "
            f"{_REMEDY}"
        )
    taps = {tap: of_time(values) for tap, values in arrays.items()}
    return TracedInput(entry["id"], tokens, taps, None if given is None else _file_in(folder, given), signature)


def _file_in(folder: Path, name: str) -> Path:
    path = folder / name
    if path.resolve().parent != folder.resolve():
        raise UsageError(f"{folder / MANIFEST}: {brief(name)} is not a file in that folder; {_REMEDY}")
    check_file(path, _REMEDY, _LARGEST)
    return path


def _arrays(path: Path) -> dict[str, Array]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            arrays: dict[str, Array] = load_file(path)
        else:
            with np.load(path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
    except Exception as error:  # NumPy, zipfile and safetensors each raise classes of their own
        raise UsageError(f"{path} holds no arrays ({one_line(error, 100)}); {_REMEDY}") from None
    return arrays


def of_time(values: Array) -> Array:
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
            raise UsageError(f"{path} is not an array ({one_line(error, 100)}); run the model again") from None
        return of_time(values)

    def __contains__(self, tap: object) -> bool:
        return tap in self.taps

    def __iter__(self) -> Iterator[str]:
        return iter(self.taps)

    def __len__(self) -> int:
        return len(self.taps)


def _kept(folder: Path, tokens: list[int]) -> TracedInput:
    """An input as `--keep-traces` keeps it; in the order in which the stage computed."""
    try:
        named = json.loads((folder / MANIFEST).read_text())["taps"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(
            f"{folder / MANIFEST} is not a manifest of a trace ({one_line(error, 80)}); {_REMEDY}"
        ) from None
    return TracedInput(folder.name, tokens, _Files(folder, [tap for tap in named if (folder / f"{tap}.npy").is_file()]))


def folder_traces(folder: Path, whole: bool = False) -> Traces:
    """Those of a folder, with the floor that the run beside them knows. Raises UsageError as `read_folder` does."""

    def floor(item: str, tap: str, shape: tuple[int, ...]) -> Floor | None:
        return _floor(folder, item, tap, shape)

    return Traces(str(folder), read_folder(folder), floor, whole)


def _floor(folder: Path, name: str, tap: str, shape: tuple[int, ...]) -> Floor | None:
    """The truth and the float32 runs of the reference that a run kept beside A; None where there are none."""
    place = folder.parent / HF
    runs = [sample(place, order) / name / f"{tap}.npy" for order in range(NOISE_SAMPLES)]
    files = [folder.parent / ORACLE / name / f"{tap}.npy", *runs]
    if not all(path.is_file() for path in files):
        return None
    exact, *samples = (of_time(np.load(path, mmap_mode="r", allow_pickle=False)) for path in files)
    return (exact, samples) if {each.shape for each in (exact, *samples)} == {shape} else None
