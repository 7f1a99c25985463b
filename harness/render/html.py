"""The parity report. In: record and taps. Out: `report.html`, one file that needs no network.

The page carries its taps as compressed JSON and draws charts and table from it in the browser; nothing in it is
computed from the numbers but where a point stands.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.names.stages import ORACLE
from harness.record.details import read_details
from harness.record.record import Fault, HopResult, Record, StageResult, write_text
from harness.record.tap_row import TapRow
from harness.render.generation import summary as generation_summary
from harness.render.laws import law_rows, law_stages, law_words
from harness.render.numbers import floor_text, rows_of, worst_of
from harness.render.page import render_page
from harness.render.page_data import VERSIONS, details_data, tap_data
from harness.render.recipes import hop_groups, recipe_groups, wrong_layers
from harness.render.sentences import fault_words, missing_groups, nearest_to_limit, suspicion
from harness.render.speed import SPEED_COLUMNS, speed_rows, speed_words, unsteady_words
from harness.render.text import first_perplexity, not_measured
from harness.render.words import causes_of, fault_of, reach_words, text_words, verdict_words, where

if TYPE_CHECKING:
    import pandas as pd

REPORT_FILE = "report.html"
MOST_LAYERS = 40  # of a recipe
SCRIPTS = ("core.js", "charts.js", "depth.js", "positions.js", "steps.js", "table.js", "start.js")


@dataclass(frozen=True)
class StageNode:
    """A stage in the drawing of the pipeline, with the hops that leave it."""

    name: str
    stage: StageResult | None
    hops: tuple[tuple[HopResult, StageNode], ...]


def write_report(folder: Path, record: Record, frame: pd.DataFrame) -> Path:
    """Write `report.html` into the run folder and return its path."""
    fault_row, details = _fault_row(record, frame), read_details(folder)
    data = tap_data(record, frame)
    if details is not None:
        data["details"] = details_data(record, details, data["texts"])
    page = render_page(
        "report.html.j2",
        SCRIPTS,
        data,
        has_details=details is not None and not (details.positions.empty and details.logits.empty),
        record=record,
        verdict_words=verdict_words(record),
        nearest=nearest_to_limit(record),
        text_words=text_words(record),
        reach_words=reach_words(frame),
        speed_columns=SPEED_COLUMNS,
        speed_rows=speed_rows(record),
        speed_words=speed_words(record),
        unsteady_words=unsteady_words(record),
        law_words=law_words(record),
        law_stages=law_stages(record),
        law_rows=law_rows(record),
        finding_counts=_finding_counts(record),
        likelihoods={one.input: one for one in record.likelihood.inputs} if record.likelihood else {},
        suspicion=suspicion(record),
        fault_words=fault_words(record, fault_row),
        chain=chain(record),
        lost_stages=[stage for stage in record.stages if stage.status in ("crashed", "timeout")],
        other_failures=[
            hop for hop in record.hops if hop.verdict == "fail" and hop.taps_compared and _no_tap_fails(hop)
        ],
        lone_stages=_lone_stages(record),
        fault_row=fault_row,
        fault_floor=floor_text(record.first_fault) if record.first_fault else "",
        where=where,
        hop_fault=lambda hop: fault_of(record, hop),
        further_faults=record.faults[1:],
        causes=[] if record.first_fault is None else causes_of(record, record.first_fault),
        other_causes=_other_causes(record),
        recipes=recipe_groups(record),
        has_layers=any(result.layers for result in record.recipes),
        most_layers=MOST_LAYERS,
        wrong_layers=wrong_layers(record),
        groups=hop_groups(record),
        has_text=any(hop.text for hop in record.hops),
        first_perplexity=first_perplexity(record),
        generated="" if record.generation is None else generation_summary(record.generation),
        not_measured=not_measured(record),
        cases={(case.input, case.hop): case for case in record.cases},
        missing=[(hop, missing_groups(hop)) for hop in record.hops if hop.taps_missing],
        versions=_versions(record),
        command=_command(record),
        run=shlex.quote(str(final_folder(folder, record))),
        explorer=_explorer(final_folder(folder, record), record),
        options={name: value for name, value in record.options.items() if name != "command"},
    )
    path = folder / REPORT_FILE
    write_text(path, page)
    return path


def final_folder(folder: Path, record: Record) -> Path:
    """Where a run folder will stay: a run under way still works in a hidden one, which no command would find."""
    return folder.parent / record.run_id if folder.name.startswith(".") else folder


def _finding_counts(record: Record) -> str:
    """`1 error, 2 warnings` among the findings; empty without one."""
    counts = [(name, sum(one.severity == name for one in record.findings)) for name in ("error", "warning")]
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts if count)


def _explorer(folder: Path, record: Record) -> str:
    """The command that opens both graphs of the hop of the first fault, else of the worst hop; empty without one."""
    worst = worst_of(record)
    fault = record.first_fault
    hop = next((hop for hop in record.hops if fault and hop.name == fault.hop), worst[0] if worst else None)
    if hop is None:
        return ""
    return shlex.join(["edge-parity", "explore", str(folder), "--hop", hop.name])


def _no_tap_fails(hop: HopResult) -> bool:
    return hop.first_failing_tap is None


def _other_causes(record: Record) -> list[tuple[Fault, list[Any]]]:
    """The further faults that something explains, with what does."""
    found = [(fault, causes_of(record, fault)) for fault in record.faults[1:]]
    return [(fault, causes) for fault, causes in found if causes]


def chain(record: Record) -> list[StageNode]:
    """The hops as trees that start at the stages no hop leads to."""
    stages = {stage.name: stage for stage in record.stages}
    targets = {hop.to for hop in record.hops}
    roots = dict.fromkeys(hop.from_ for hop in record.hops if hop.from_ not in targets)
    return [_node(name, record, stages, frozenset()) for name in roots]


def _node(name: str, record: Record, stages: dict[str, StageResult], above: frozenset[str]) -> StageNode:
    above = above | {name}
    leaving = [hop for hop in record.hops if hop.from_ == name and hop.to not in above]
    return StageNode(name, stages.get(name), tuple((hop, _node(hop.to, record, stages, above)) for hop in leaving))


def _lone_stages(record: Record) -> list[StageResult]:
    """What belongs beside the chain: the oracle, and whatever broke before it could stand in a hop."""
    placed = {name for hop in record.hops for name in (hop.from_, hop.to)}
    beside = [stage for stage in record.stages if stage.name not in placed]
    return [stage for stage in beside if stage.name == ORACLE or stage.status != "ok"]


def _command(record: Record) -> str:
    """The command that made the run, if it noted one, as a shell takes it."""
    command = record.options.get("command") or ["edge-parity", "run", record.model]
    return command if isinstance(command, str) else shlex.join(str(word) for word in command)


def _versions(record: Record) -> list[str]:
    """Which kinds of module names the first fault has, usual ones first."""
    if record.first_fault is None:
        return []
    return list(dict.fromkeys((*VERSIONS, *record.first_fault.modules)))


def _fault_row(record: Record, frame: pd.DataFrame) -> TapRow | None:
    fault = record.first_fault
    if fault is None:
        return None
    rows = rows_of(frame, hop=fault.hop, tap=fault.tap)
    mine = [row for row in rows if row.input == fault.input] or [row for row in rows if row.verdict == "fail"]
    return mine[0] if mine else None
