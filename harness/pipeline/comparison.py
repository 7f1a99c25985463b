"""Compare what the stages traced, on every hop of a run.

In: task results and their traces. Out: a `Comparison`, and why what is missing is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.align.plan import PlanFacts
from harness.compare.joined import KnownFloors, joined
from harness.compare.local import local_errors, with_local
from harness.compare.text import compare_text
from harness.compare.traces import Comparison, compare_traces
from harness.flatbuffer.signatures import DECODE
from harness.inputs.sampling import sample_of
from harness.inputs.tokens import schedule_of
from harness.jobs.job import JobInput
from harness.jobs.prepared import Prepared
from harness.jobs.results import Tapped, facts_of
from harness.judge.rules import Rule, judge_hop
from harness.locate.faults import first_row
from harness.names.coverage import NO_PREFILL_LOGITS, UNDECLARED_POINT, Absence, listed
from harness.names.figures import FILE_MB, ON_TEXT, PERPLEXITY_RATIO
from harness.names.sample import Sample
from harness.names.stages import (
    Floor,
    Hop,
    hops_of,
    named,
    recipe_of_hop,
    runs_file,
    split,
    stage_named,
)
from harness.names.taps import split_tap
from harness.pipeline.hop_groups import HopGroup
from harness.pipeline.recipe_files import families, file_mb
from harness.pipeline.tasks import runs_text
from harness.processes.scheduler import Results
from harness.record.record import TextFigures
from harness.record.tap_row import taps_frame


def compare(
    prepared: Prepared,
    results: Results,
    group: HopGroup,
    rules: list[Rule],
    traces: Path,
    floors: KnownFloors,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Every tap of every input on every hop of a group whose stages ran, and the text that is measured."""
    stages = group.stages
    plans = plans_of(results, stages)
    done = {name for name in stages if results[name].status == "ok"}
    found = compare_traces(
        traces,
        done,
        [item.id for item in prepared.inputs],
        prepared.taps,
        prepared.model,
        rules,
        lambda stage, tap: _why_missing(stage, tap, plans[split(stage)[1]], results, prepared),
        hops=group.hops,
        progress=progress,
        floors_at=floors,
        answers={item.id: item.of_text for item in prepared.inputs if item.text is not None},
        families=families(results, plans),
        # A conversation prefills after it has decoded: where it lies tells of no position which of them it is.
        decoded={item.id: decode_start(item, prepared) for item in prepared.inputs if not item.earlier},
        samples=samples_of(prepared),
    )
    return with_text(found, prepared, results, stages, traces)


def samples_of(prepared: Prepared) -> dict[str, Sample]:
    """The positions that are kept of each input that is too long for all."""
    return {item.id: sample for item in prepared.inputs if (sample := sample_of(item, prepared)) is not None}


def whole(
    parts: Sequence[Comparison],
    prepared: Prepared,
    results: Results,
    stages: tuple[str, ...],
    rules: list[Rule],
    own: Path | None = None,
) -> Comparison:
    """The comparisons of all groups as one, with what is judged of no single input. own: the person's flatbuffer."""
    inputs = [item.id for item in prepared.inputs]
    return with_budgets(joined(parts, hops_of(stages), inputs, stages), prepared, results, rules, own)


def decode_start(item: JobInput, prepared: Prepared) -> int:
    """The first position of an input that decode runs; its length where none is."""
    steps = schedule_of(item, prepared)
    return next((step.start for step in steps if step.signature == DECODE), len(item.tokens))


def with_text(
    comparison: Comparison, prepared: Prepared, results: Results, stages: tuple[str, ...], traces: Path
) -> Comparison:
    """The comparison with perplexities, of the stages that ended well."""
    windows = {item.id: item.tokens for item in prepared.text.windows}
    if not windows:
        return comparison
    ran = [name for name in stages if results[name].status == "ok" and runs_text(stage_named(name), prepared)]
    found = compare_text(traces, ran, comparison.hops, windows)
    return replace(comparison, text=found.stages, on_text=found.hops)


def with_budgets(
    comparison: Comparison, prepared: Prepared, results: Results, rules: list[Rule], own: Path | None
) -> Comparison:
    """The comparison with the judgement of what is of no single input, and with those figures beside the others."""
    budgets, logits = {}, dict(comparison.logits)
    for hop in comparison.hops:
        recipe, text = recipe_of_hop(hop.name), comparison.on_text.get(hop.name)
        mb = file_mb(results, recipe, own) if hop.floor is Floor.PRICE else None
        budgets[hop.name] = judge_hop(
            rules,
            prepared.model,
            hop.name,
            comparison.families.get(recipe, ""),
            None if text is None else _figures(text),
            prepared.text.predicted,
            mb,
            prepared.text.why_not,
        )
        if hop.name in logits:
            of_the_hop = {FILE_MB: mb, PERPLEXITY_RATIO: None if text is None else text.perplexity_ratio}
            logits[hop.name] = logits[hop.name].model_copy(update=of_the_hop)
    return replace(comparison, budgets=budgets, logits=logits)


def _figures(text: TextFigures) -> dict[str, float]:
    """As rules name them."""
    return {name: float(getattr(text, name)) for name in (*ON_TEXT, PERPLEXITY_RATIO)}


def with_local_errors(comparison: Comparison, prepared: Prepared, traces: Path, rules: list[Rule]) -> Comparison:
    """The comparison with what was introduced at each tap, on the inputs that local passes ran."""
    inputs = [item.id for item in prepared.inputs]
    errors = local_errors(traces, comparison.hops, inputs, prepared.taps)
    return replace(comparison, rows=with_local(comparison.rows, errors, rules, comparison.families))


def failing_hops(comparison: Comparison) -> list[Hop]:
    """Those on which a tap breaks a limit, or what is of no single input does."""
    failing = {row.hop for row in comparison.rows if row.verdict == "fail"}
    failing |= {name for name, found in comparison.budgets.items() if found.verdict == "fail"}
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
    if stage == prepared.own_stage and split_tap(tap)[1] in prepared.undeclared:
        return listed(UNDECLARED_POINT)
    modules = facts_of(results, stage).absent_modules
    return Absence(f"{stage} has no such tensor" + (f" (no module {modules[0]})" if modules else ""))
