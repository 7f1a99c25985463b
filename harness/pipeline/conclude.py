"""From what the stages left to the record: judge, locate, and say what was missing and why.

In: task results, their traces and the comparison. Out: a `Record` and the rows of its taps.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.align.plan import PlanFacts
from harness.compare.traces import Comparison
from harness.jobs.facts import Facts
from harness.jobs.prepared import Prepared
from harness.jobs.results import Converted, Tapped
from harness.judge.known_defects import Defect, match, on_record
from harness.judge.rules import Rule, load_rules, looser_than
from harness.locate.faults import LostStage, cases, locate, summarise_hop
from harness.names.stages import (
    FLATBUFFER,
    HF,
    ORACLE,
    Hop,
    hops_of,
    named,
    recipe_of_hop,
    split,
)
from harness.processes.scheduler import TaskResult
from harness.record.generation import Generation
from harness.record.laws import LawResult
from harness.record.record import Finding, HopResult, Input, LooserRule, MeasuredText, Record, StageResult
from harness.record.tap_row import taps_frame

if TYPE_CHECKING:
    import pandas as pd

from harness.pipeline.comparison import plans_of, samples_of
from harness.pipeline.environment import environment
from harness.pipeline.fault_names import named_where_it_is
from harness.pipeline.findings import crashed, findings_of
from harness.pipeline.in_sequence import in_sequence
from harness.pipeline.owned_faults import owned, with_mask
from harness.pipeline.recipe_results import recipe_results, with_dearest


def conclude(
    run_id: str,
    prepared: Prepared,
    results: dict[str, TaskResult],
    stages: tuple[str, ...],
    comparison: Comparison,
    traces: Path,
    options: dict[str, object],
    defects: Iterable[Defect] = (),
    rules: list[Rule] | None = None,
    own: Path | None = None,
    generation: Generation | None = None,
    more: Iterable[Finding] = (),
    laws: Sequence[LawResult] = (),
) -> tuple[Record, pd.DataFrame]:
    """Find the first fault in what was compared, and put it on record.

    options: what the command line said, as the record shows it. defects: the known ones, of all models.
    rules: the user's, where they are not the shipped ones. own: the person's flatbuffer, if one was given.
    generation: what the stages generated, if that was asked for. more: findings beside those of the comparison.
    laws: what those of the stages came to.
    """
    frame = taps_frame(comparison.rows)
    hops = _hops(prepared, results, stages, comparison, frame)
    findings = [*findings_of(prepared, results, stages, hops, comparison.rows), *more]
    lost = any(hop.verdict == "fail" for hop in hops) or any(found.severity == "error" for found in findings)
    failed = crashed(results) or lost
    plans = plans_of(results, stages)
    modules, kinds = _names_of(prepared, plans)
    faults = [with_mask(fault, traces) for fault in locate(hops, frame, modules, kinds)]
    faults = in_sequence(faults, frame, prepared, traces)
    faults = [named_where_it_is(fault, frame, prepared, plans) for fault in faults]
    record = Record(
        model=prepared.model,
        run_id=run_id,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        verdict="fail" if failed or not hops else "pass",
        exit_code=3 if crashed(results) else int(failed),
        source=prepared.source,
        variant=prepared.variant.name,
        options={"prefill": prepared.prefill, "kv_cache_len": prepared.kv_cache_len, **options},
        inputs=_inputs(prepared),
        stages=[_stage(results[name]) for name in (*_preparing(stages), *stages) if name in results],
        hops=hops,
        cases=cases(hops, frame, [item.id for item in prepared.inputs]),
        faults=owned(faults, frame, findings, results, traces),
        steps=list(comparison.steps),
        findings=findings,
        looser_rules=_looser(prepared.model, rules, comparison) if rules else [],
        text=_text(prepared, comparison),
        generation=generation,
        laws=list(laws),
        recipes=recipe_results(prepared, results, own),
        taps=modules,
        environment=environment(),
    )
    record.faults = [with_dearest(fault, record.recipes) for fault in record.faults]
    record.known_defects = on_record(record, match(record, defects))
    return record, frame


def _hops(
    prepared: Prepared,
    results: dict[str, TaskResult],
    stages: tuple[str, ...],
    comparison: Comparison,
    frame: pd.DataFrame,
) -> list[HopResult]:
    """What each hop came to, in the order of the pipeline."""
    return [
        summarise_hop(
            hop,
            frame,
            prepared.taps,
            comparison.logits.get(hop.name),
            prepared.coverage_required(hop),
            _blocked(hop, results),
            comparison.on_text.get(hop.name),
            comparison.budgets[hop.name].why if hop.name in comparison.budgets else "",
        )
        for hop in hops_of(stages)
    ]


def _names_of(
    prepared: Prepared, plans: dict[str, PlanFacts]
) -> tuple[dict[str, dict[str, str | None]], dict[str, str]]:
    """(tap -> its name in each version, tap -> the kind of operator that writes it in a flatbuffer), in the first
    signature of the first file that has it."""
    found = {tap: next(filter(None, (plan.where(tap) for plan in plans.values())), None) for tap in prepared.modules}
    names = {
        tap: {**own, FLATBUFFER: where[1].tensor if (where := found[tap]) else None}
        for tap, own in prepared.modules.items()
    }
    return names, {tap: where[1].op for tap, where in found.items() if where}


def _inputs(prepared: Prepared) -> list[Input]:
    samples = samples_of(prepared)
    return [
        Input(
            id=item.id,
            tokens=len(item.tokens),
            text=item.text,
            token_ids=item.tokens,
            decoded=item.decode_tail,
            drawn=item.drawn,
            schedule=prepared.schedules[item.id],
            sampled=len(samples[item.id].positions) if item.id in samples else None,
        )
        for item in prepared.inputs
    ]


def _text(prepared: Prepared, comparison: Comparison) -> MeasuredText | None:
    text = prepared.text
    if not text.windows and not text.why_not:
        return None
    return MeasuredText(
        name=text.name,
        sha256=text.sha256,
        windows=len(text.windows),
        tokens=text.predicted,
        stages=list(comparison.text),
        why_not=text.why_not,
    )


def _looser(model: str, rules: list[Rule], comparison: Comparison) -> list[LooserRule]:
    places = (
        (model, row.hop, row.tap, row.positions, comparison.families.get(recipe_of_hop(row.hop), ""))
        for row in comparison.rows
        if row.verdict != "missing" and row.rule and row.positions is not None
    )
    found = looser_than(rules, load_rules(), places)
    return [LooserRule(rule=rule, than=than, limits=limits) for (rule, than), limits in found.items()]


def _preparing(stages: tuple[str, ...]) -> list[str]:
    recipes = dict.fromkeys(split(name)[1] for name in stages)
    return [named(task, recipe) for recipe in recipes for task in ("convert", "tap")]


def _blocked(hop: Hop, results: dict[str, TaskResult]) -> LostStage | None:
    for name in (*hop.stages, ORACLE, HF):
        if results[name].status != "ok":
            return LostStage(name, f"stage {name} {results[name].status}: {results[name].detail}")
    return None


def _stage(result: TaskResult) -> StageResult:
    said = result.gave(Facts) or result.gave(Converted) or result.gave(Tapped)
    return StageResult(
        name=result.name,
        status=result.status,
        seconds=result.seconds,
        peak_rss_mb=result.peak_rss_mb,
        detail=result.detail,
        facts=said.recorded() if said is not None else {},
    )
