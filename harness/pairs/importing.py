"""`edge-parity import`: a run with more stages, whose traces come from outside, written beside it.

In: folders of traces and a run folder. Out: a new run folder and its record. The run's own stages, hops, findings and
faults stay as they are; new hops are judged by the same rules.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compare.traces import Comparison, compare_traces
from harness.errors import UsageError
from harness.judge.rules import load_rules
from harness.locate.faults import cases, locate, summarise_hop
from harness.names.codes import FindingCode
from harness.names.coverage import NOT_GIVEN, Absence
from harness.names.sample import Sample
from harness.names.stages import HF, ORACLE, Hop
from harness.names.taps import BLOCK_INPUT, EMBED, FINAL_NORM, LOGITS, SOURCES, block_tap, split_tap
from harness.pairs.imported import Imported, read_imported, write_compared
from harness.pairs.trace_folder import TraceFolder
from harness.record.details import read_details, write_details
from harness.record.record import Fault, Finding, Record, StageResult, read_run, write_record
from harness.record.runs import next_run_id
from harness.record.tap_row import TapRow, taps_frame
from harness.store.run_folder import working_folder
from harness.store.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

_SHARED = "stages of the run fail at this tap too, or float32 cannot compute it: it need not be the imported stage"


def import_traces(folders: Sequence[TraceFolder], run: Path, out: Path | None = None) -> tuple[Path, Record]:
    """Write a run with the traces of each folder as one more stage. Raises UsageError, before anything is left.

    out: the folder of the runs where it goes; None for that of `run`.
    """
    from harness.render.files import render_all

    record, frame = read_run(run)
    own = frame
    parent = run.resolve().parent if out is None else out / record.model
    run_id = next_run_id(parent.parent, datetime.datetime.now(datetime.UTC))
    with working_folder(parent, run_id) as working:
        for each in folders:
            imported = read_imported(each.folder, record, each.stage)
            with tempfile.TemporaryDirectory(dir=working) as traces:
                samples = write_compared(imported, run / "traces", Path(traces))
                compared = _compared(imported, record, Path(traces), samples)
            record, frame = _with_stage(record, (own, frame), imported, compared, run_id, run.name, each.folder)
        details = read_details(run)
        if details is not None:
            write_details(working, details)
        write_record(working, record, frame)
        render_all(working, record, frame)
        final = parent / run_id
        working.rename(final)
    return final, record


def _compared(imported: Imported, record: Record, traces: Path, samples: Mapping[str, Sample]) -> Comparison:
    """The taps that both sides give, and a missing row for each other one."""
    hop, inputs, order = imported.hop, list(imported.inputs), {tap: n for n, tap in enumerate(record.taps)}
    held = {tap for item in inputs for tap in Trace.open(traces / hop.reference / item).taps}
    if LOGITS not in held:
        raise UsageError(f"{hop.reference} of the run has no {LOGITS} on these inputs; name another 'reference'")
    both = [tap for tap in imported.given if tap in held]
    found = compare_traces(
        traces,
        {ORACLE, HF, *hop.stages},
        inputs,
        both,
        record.model,
        load_rules(),
        lambda stage, tap: Absence(f"{stage} does not give it on this input, or not at every position"),
        hops=[hop],
        samples=samples,
    )
    rows = [replace(row, order=order[row.tap]) for row in found.rows]
    for tap in record.taps:
        if tap not in both:
            lacking = hop.reference if tap in imported.given else hop.candidate
            rows += [_missing(record.model, item, hop.name, tap, order[tap], lacking) for item in inputs]
    return replace(found, rows=sorted(rows, key=lambda row: (inputs.index(row.input), row.order)))


def _missing(model: str, item: str, hop: str, tap: str, order: int, lacking: str) -> TapRow:
    block = split_tap(tap)[0]
    why = f"{lacking} does not give this tap"
    row = TapRow(model=model, input=item, hop=hop, tap=tap, block=-1 if block is None else block, order=order)
    row.why, row.absence = why, NOT_GIVEN
    return row


def _with_stage(
    record: Record,
    frames: tuple[pd.DataFrame, pd.DataFrame],
    imported: Imported,
    compared: Comparison,
    run_id: str,
    run: str,
    folder: Path,
) -> tuple[Record, pd.DataFrame]:
    """The record and taps with the new stage and hop.

    frames: taps of the run itself, by which a fault's owner is told, and those with the stages imported before.
    run: its id.
    """
    import pandas as pd

    own, frame = frames

    hop, inputs, taps = imported.hop, list(imported.inputs), list(record.taps)
    new = taps_frame(compared.rows)
    # It has to bring what it says it gives, where the reference has that: rows that are missing then say so.
    required = len({row.tap for row in compared.rows if row.absence != NOT_GIVEN}) / len(taps)
    result = summarise_hop(hop, new, taps, compared.logits.get(hop.name), required)
    narrow = imported.narrow()
    faults = [_owned(fault, own, new, hop, narrow) for fault in locate([result], new, record.taps, {})]
    findings = [*record.findings, *_not_imported(record, inputs, hop.candidate), *_in_narrow(narrow, hop.candidate)]
    facts = {"traces": str(folder), "imported_into": run}
    failed = record.verdict != "pass" or result.verdict != "pass"
    content = record.model_copy(
        update={
            "run_id": run_id,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "verdict": "fail" if failed else "pass",
            "exit_code": max(record.exit_code, int(failed)),
            "stages": [*record.stages, StageResult(name=hop.candidate, status="ok", facts=facts)],
            "hops": [*record.hops, result],
            "cases": [*record.cases, *cases([result], new, inputs)],
            "faults": [*record.faults, *faults],
            "steps": [*record.steps, *compared.steps],
            "findings": findings,
        }
    )
    # Once more through what refuses a record whose parts contradict each other.
    whole = Record.model_validate(content.model_dump(by_alias=True))
    return whole, pd.concat([frame, new], ignore_index=True)


def _not_imported(record: Record, inputs: list[str], stage: str) -> list[Finding]:
    """A warning of the inputs on which nothing of the new stage is known."""
    lacking = [item.id for item in record.inputs if item.id not in inputs]
    if not lacking:
        return []
    what = f"{stage} is judged on {', '.join(inputs)} alone: the imported traces have not {', '.join(lacking)}"
    return [Finding(kind="runtime", code=FindingCode.INPUTS_NOT_IMPORTED, severity="warning", what=what)]


def _in_narrow(narrow: str, stage: str) -> list[Finding]:
    """A warning of traces that are rounded: a stage that stores or computes so cannot pass float32's limits."""
    if not narrow:
        return []
    return [
        Finding(kind="runtime", code=FindingCode.IMPORTED_IN_NARROW, severity="warning", what=_rounded(narrow, stage))
    ]


def _rounded(narrow: str, stage: str) -> str:
    return (
        f"every number that {stage} gives is one that {narrow} holds: its traces were stored in it, or it computes in "
        "it. Either is far above float32's limits; store float32 to tell which"
    )


def _owned(fault: Fault, frame: pd.DataFrame, new: pd.DataFrame, hop: Hop, narrow: str) -> Fault:
    """A fault with whose it is: the new stage's, unless the run's own stages differ there too.

    narrow: the type that holds all of its numbers.

    Traces from outside have no local pass and lack taps: where one that the fault is computed from was not compared,
    the error may be introduced before it, and the evidence says so.
    """
    here = frame[(frame["tap"] == fault.tap) & (frame["input"] == fault.input) & (frame["verdict"] == "fail")]
    if len(here) or fault.floor is not None:
        return fault.model_copy(update={"evidence": [_SHARED]})
    evidence = [f"{hop.reference} agrees there with every stage of the run that it is compared with"]
    rows = new[(new["input"] == fault.input) & (new["verdict"] == "missing")]
    unknown = [tap for tap in _sources(fault.tap, list(new["tap"].unique())) if tap in set(rows["tap"])]
    if unknown:
        said = (
            f"{', '.join(unknown)}, which it is computed from, was not compared: the error may be introduced before it"
        )
        evidence.append(said)
    if narrow:
        evidence.append(_rounded(narrow, hop.candidate))
    return fault.model_copy(update={"owner": hop.candidate, "evidence": evidence})


def _sources(tap: str, taps: Collection[str]) -> list[str]:
    """The taps of a model that one is computed from, as far as the vocabulary says."""
    block, point = split_tap(tap)
    blocks = max((number for other in taps if (number := split_tap(other)[0]) is not None), default=-1)
    if block is None:
        before = {LOGITS: [FINAL_NORM], FINAL_NORM: [block_tap(blocks, "out")] if blocks >= 0 else []}.get(point, [])
    else:
        entry = block_tap(block - 1, "out") if block else EMBED
        before = [entry if source == BLOCK_INPUT else block_tap(block, source) for source in SOURCES[point]]
    return [source for source in before if source in taps]
