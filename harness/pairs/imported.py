"""Traces from outside as a stage of a run: the check of their folder, and what is compared.

docs/traces.md has the format.

In: a folder, and a run that kept its traces. Out: `Imported`, and a folder of traces that `compare_traces` reads.
Raises UsageError of one line for what cannot be compared: a wrong value is a fault, a wrong file is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.traces import FLOAT32_RUNS
from harness.errors import UsageError
from harness.explain.functions import to_bfloat16, to_float16
from harness.names.sample import Sample
from harness.names.stages import FLOAT, HF, ORACLE, REAUTHORED, Hop, known_stage, present, split
from harness.names.taps import LOGITS
from harness.pairs.folders import TracedInput, read_folder
from harness.pairs.trace_folder import TraceFolder
from harness.plain import brief
from harness.record.record import Record
from harness.store.trace import MANIFEST, StoredTap, TraceWriter
from harness.system.reading import MB, check_file, read_json

Array = np.ndarray[Any, Any]
STAGE = "device"
_REMEDY = "docs/traces.md has the format"
_NARROW = {"float16": to_float16, "bfloat16": to_bfloat16}
_AGAIN = "run the model again with --keep-traces"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_LARGEST = 20_000 * MB


@dataclass(frozen=True)
class Imported:
    """hop: from the reference to the new stage. given: taps that every input has to bring, in execution order.

    inputs: by id, each value `[1, time, ...]` once `checked`.
    """

    hop: Hop
    given: list[str]
    inputs: Mapping[str, TracedInput]

    def narrow(self) -> str:
        """The narrow type that holds every number of it, if one does; empty where none does, or all are whole."""
        given = [values for item in self.inputs.values() for values in item.taps.values()]
        if all(np.array_equal(np.rint(values), values) for values in given):
            return ""
        return next((name for name, rounded in _NARROW.items() if all(_held(values, rounded) for values in given)), "")


def _held(values: Array, rounded: Callable[[Array], Array]) -> bool:
    return bool(np.array_equal(rounded(values), values, equal_nan=True))


def read_imported(folder: Path, record: Record, name: str | None = None) -> Imported:
    """The traces of a folder, held against the inputs, taps and stages of a run. name: of the new stage, in place of
    what the folder says."""
    TraceFolder(folder).check()
    inputs = read_folder(folder)
    manifest: Any = read_json(folder / MANIFEST, _REMEDY)
    where = folder / MANIFEST
    for item in inputs.values():
        _check_input(item, record, where)
    return Imported(_hop(manifest, record, where, name), _given(manifest, inputs, record, where), inputs)


def _hop(manifest: Mapping[str, Any], record: Record, where: Path, name: str | None) -> Hop:
    ran = [stage.name for stage in record.stages if stage.status == "ok" and known_stage(stage.name) is not None]
    stage, reference = manifest.get("stage", STAGE), manifest.get("reference", present(REAUTHORED, ran))
    stage = stage if name is None else name
    if not isinstance(stage, str) or not _NAME.fullmatch(stage):
        raise UsageError(f"{where}: the stage is {brief(stage)}; give a name of a-z, 0-9 and '-', e.g. {STAGE}")
    if known_stage(stage) is not None or any(stage == other.name for other in record.stages):
        raise UsageError(
            f"{where}: the stage is {stage}, which there is already; give another name, e.g. {STAGE}-2, as 'stage' or "
            "on the command line: NAME=FOLDER"
        )
    plain = [name for name in ran if split(name)[1] == FLOAT]
    if reference not in plain:
        raise UsageError(f"{where}: 'reference' is {brief(reference)}; the run has {', '.join(plain) or 'none'}")
    return Hop(reference, stage)


def _check_input(item: TracedInput, record: Record, where: Path) -> None:
    known = {given.id: given for given in record.inputs}
    if item.id not in known:
        raise UsageError(f"{where}: the run has no input {brief(item.id)}; it has {', '.join(known)}")
    if item.tokens != known[item.id].token_ids:
        raise UsageError(
            f"{where}: input {item.id} has other 'tokens' than the run, which are token_ids of its parity.json; "
            "trace those"
        )
    for tap, values in item.taps.items():
        if tap not in record.taps:
            raise UsageError(f"{where}: input {item.id} gives {brief(tap)}, and the run has no tap of that name")
        if values.dtype.name not in ("float16", "float32", "float64"):
            raise UsageError(f"{where}: {tap} of input {item.id} is {values.dtype}; give float32")
    if LOGITS not in item.taps:
        raise UsageError(f"{where}: input {item.id} gives no {LOGITS}; without them nothing is judged")


def _given(manifest: Mapping[str, Any], inputs: Mapping[str, TracedInput], record: Record, where: Path) -> list[str]:
    """The taps that `taps` of the manifest declares; else those that any input has."""
    declared = manifest.get("taps")
    found = {tap for item in inputs.values() for tap in item.taps}
    if declared is None:
        return [tap for tap in record.taps if tap in found]
    if not isinstance(declared, list) or not all(isinstance(tap, str) for tap in declared):
        raise UsageError(f"{where}: 'taps' is not a list of names; {_REMEDY}")
    for tap in declared:
        if tap not in record.taps:
            raise UsageError(f"{where}: 'taps' names {brief(tap)}, and the run has no tap of that name")
    for tap in sorted(found - {*declared}):
        raise UsageError(f"{where}: 'taps' does not name {tap}, which an input gives; add it")
    return [tap for tap in record.taps if tap in declared]


def write_compared(imported: Imported, kept: Path, target: Path) -> dict[str, Sample]:
    """Write the traces that the hop needs, as a run has them. Returns the positions kept of each long input.

    kept: those of the run, as `--keep-traces` leaves them, `<stage>/<input>/<tap>.npy`.
    """
    if not kept.is_dir():
        raise UsageError(f"{kept.parent} kept no traces; {_AGAIN}, or name a run that did")
    stages = dict.fromkeys((imported.hop.reference, ORACLE, *FLOAT32_RUNS))
    samples: dict[str, Sample] = {}
    for item in imported.inputs.values():
        length = len(item.tokens)
        if Path(item.id).name != item.id:
            raise UsageError(f"the run's input {brief(item.id)} is not a name of a folder; run the model again")
        for stage in stages:
            place = kept / stage / item.id
            if not (place / MANIFEST).is_file():
                if stage in (imported.hop.reference, ORACLE, HF):
                    raise UsageError(f"{kept} has no {stage} on input {item.id}; {_AGAIN}")
                continue
            held = _stored(place, length)
            _copy(place, held, imported.given, target / stage / item.id, length)
            sampled = next((entry for entry in held.values() if entry.sampled), None)
            if stage == ORACLE and sampled is not None:
                positions = {at for span in sampled.covered for at in range(*span)}
                samples[item.id] = Sample(tuple(sorted(positions)))
        shapes = {tap: entry.shape for tap, entry in _stored(kept / imported.hop.reference / item.id, length).items()}
        with TraceWriter(target / imported.hop.candidate / item.id, length) as trace:
            for tap, values in item.taps.items():
                if tap in shapes:
                    trace.put(tap, _fitting(values, shapes[tap], f"{tap} of input {item.id}", imported.hop.reference))
    return samples


def _fitting(values: Array, shape: tuple[int, ...], what: str, reference: str) -> Array:
    """`[1, time, ...]` in the reference's shape. float16 as float32, which holds the same numbers."""
    # An axis of length 1 may be time or batch.
    for candidate in (values, values[None], values[None, None]):
        if candidate.shape == shape:
            return candidate.astype(np.float32) if candidate.dtype.itemsize < 4 else candidate
    raise UsageError(f"{what} is {list(values.shape)}, and {reference} has {list(shape[1:])}; {_REMEDY}")


def _stored(place: Path, length: int) -> dict[str, StoredTap]:
    """What the manifest of a kept trace says."""
    said: Any = read_json(place / MANIFEST, _AGAIN)
    try:
        taps = {tap: StoredTap.of(**entry) for tap, entry in said["taps"].items()}
        fits = said["length"] == length and all(
            0 <= start < stop <= length for entry in taps.values() for start, stop in entry.covered
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        fits, taps = False, {}
    if not fits:
        raise UsageError(f"{place / MANIFEST} is not a manifest of a trace of {length} tokens; {_AGAIN}")
    return taps


def _copy(place: Path, held: Mapping[str, StoredTap], taps: list[str], target: Path, length: int) -> None:
    with TraceWriter(target, length) as trace:
        for tap in taps:
            if tap not in held:
                continue
            path, spans = place / f"{tap}.npy", held[tap].covered
            check_file(path, _AGAIN, _LARGEST)
            try:
                values: Array = np.load(path, mmap_mode="r", allow_pickle=False)
                rows = sum(stop - start for start, stop in spans) if held[tap].sampled else length
                if values.shape[:2] != (1, rows):
                    raise ValueError(f"it is {list(values.shape)}")
                at = 0
                for start, stop in spans:
                    begin = at if held[tap].sampled else start
                    trace.put(tap, values[:, begin : begin + stop - start], start, held[tap].how)
                    at += stop - start
            except (ValueError, EOFError) as error:
                raise UsageError(f"{path} is not what the run kept ({brief(str(error))}); {_AGAIN}") from None
