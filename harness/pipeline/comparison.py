"""Compare what the stages traced, on every hop of a run.

In: task results and their traces. Out: a `Comparison`, and why what is missing is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.align.plan import PlanFacts
from harness.compare.local import local_errors, with_local
from harness.compare.traces import Comparison, compare_traces
from harness.jobs.prepared import Prepared
from harness.jobs.results import Tapped, facts_of
from harness.judge.rules import Rule
from harness.locate.faults import first_row
from harness.names.coverage import NO_PREFILL_LOGITS, UNDECLARED_POINT, Absence, listed
from harness.names.stages import (
    REAUTHORED,
    Hop,
    hops_of,
    named,
    runs_file,
    split,
)
from harness.names.taps import split_tap
from harness.processes.scheduler import Results
from harness.record.tap_row import taps_frame


def compare(
    prepared: Prepared,
    results: Results,
    stages: tuple[str, ...],
    rules: list[Rule],
    traces: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Every tap of every input on every hop whose stages ran."""
    plans = plans_of(results, stages)
    done = {name for name in stages if results[name].status == "ok"}
    return compare_traces(
        traces,
        done,
        [item.id for item in prepared.inputs],
        prepared.taps,
        prepared.model,
        rules,
        lambda stage, tap: _why_missing(stage, tap, plans[split(stage)[1]], results, prepared),
        hops=hops_of(stages),
        progress=progress,
    )


def with_local_errors(comparison: Comparison, prepared: Prepared, traces: Path, rules: list[Rule]) -> Comparison:
    """The comparison with what was introduced at each tap, on the inputs that local passes ran."""
    inputs = [item.id for item in prepared.inputs]
    errors = local_errors(traces, comparison.hops, inputs, prepared.taps)
    return replace(comparison, rows=with_local(comparison.rows, errors, rules))


def failing_hops(comparison: Comparison) -> list[Hop]:
    """Those on which a tap breaks a limit."""
    failing = {row.hop for row in comparison.rows if row.verdict == "fail"}
    return [hop for hop in comparison.hops if hop.name in failing]


def in_question(comparison: Comparison) -> list[str]:
    """The inputs on which hops first fail: what was introduced there is worth knowing."""
    frame = taps_frame(comparison.rows)
    failing = [frame[(frame["hop"] == hop.name) & (frame["verdict"] == "fail")] for hop in comparison.hops]
    return list(dict.fromkeys(first_row(rows).input for rows in failing if len(rows)))


def plans_of(results: Results, stages: tuple[str, ...]) -> dict[str, PlanFacts]:
    """The alignment plan of each recipe's file; "none" is that of the float32 one."""
    return {recipe: _plan(results, recipe) for recipe in dict.fromkeys(split(name)[1] for name in stages)}


def _plan(results: Results, recipe: str) -> PlanFacts:
    """What the alignment plan of a recipe's file says; nothing without a flatbuffer."""
    tap = results.get(named("tap", recipe))
    tapped = tap.gave(Tapped) if tap is not None else None
    return PlanFacts() if tapped is None else PlanFacts.read(Path(tapped.plan))


def _why_missing(stage: str, tap: str, plan: PlanFacts, results: Results, prepared: Prepared) -> Absence:
    if runs_file(stage):
        absent = plan.why_missing(stage, tap)
        if absent.reason == NO_PREFILL_LOGITS and prepared.prefill_logits:
            return Absence("the file gives no logits on prefill, and was converted to give them")
        return absent
    if stage == REAUTHORED and split_tap(tap)[1] in prepared.undeclared:
        return listed(UNDECLARED_POINT)
    modules = facts_of(results, stage).absent_modules
    return Absence(f"{stage} has no such tensor" + (f" (no module {modules[0]})" if modules else ""))
