"""From what the stages left to the record: compare, judge, locate, and say what was missing and why.

In: task results and their traces. Out: a `Record` and the rows of its taps.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.align.plan import PlanFacts
from harness.compare.local import local_errors, with_local
from harness.compare.overflow import overflow_findings
from harness.compare.traces import Comparison, compare_traces
from harness.jobs.prepared import Prepared
from harness.judge.coverage import NO_PREFILL_LOGITS, UNDECLARED_POINT, Absent, listed
from harness.judge.known_defects import Defect, match, on_record
from harness.judge.rules import Rule, load_rules, looser_than
from harness.locate.beyond_float32 import beyond_float32
from harness.locate.faults import ANOTHER_MASK, cases, first_row, hides_others, locate, summarise_hop
from harness.locate.owners import is_given, ownership, taps_at
from harness.names.recipes import unjudged
from harness.names.stages import (
    HF,
    ORACLE,
    Hop,
    file_stages,
    hops_of,
    named,
    runs_file,
    split,
    stage_named,
)
from harness.names.taps import split_tap
from harness.pipeline.end_findings import LAST_POSITION, cache_findings, last_position_findings
from harness.pipeline.tasks import is_local_pass
from harness.processes.scheduler import Results, TaskResult
from harness.record.record import Finding, FirstFault, Input, LooserRule, Record, StageResult, taps_frame
from harness.store.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

DIFFERING = "steps_differing_from_untouched_file"
_VERSIONS = (
    "edge-parity",
    "torch",
    "torchao",
    "transformers",
    "litert-torch",
    "litert-converter",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "tensorflow",
    "numpy",
    "safetensors",
)


def compare(
    prepared: Prepared,
    results: Results,
    stages: tuple[str, ...],
    rules: list[Rule],
    traces: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Every tap of every input on every hop whose stages ran."""
    plans = _plans(results, stages)
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


def in_question(comparison: Comparison) -> list[str]:
    """The inputs on which hops first fail: what was introduced there is worth knowing."""
    frame = taps_frame(comparison.rows)
    failing = [frame[(frame["hop"] == hop.name) & (frame["verdict"] == "fail")] for hop in comparison.hops]
    return list(dict.fromkeys(str(first_row(rows)["input"]) for rows in failing if len(rows)))


_ENDED_BADLY = ("crashed", "timeout")


def conclude(
    run_id: str,
    prepared: Prepared,
    results: dict[str, TaskResult],
    stages: tuple[str, ...],
    comparison: Comparison,
    traces: Path,
    options: dict[str, Any],
    defects: Iterable[Defect] = (),
    rules: list[Rule] | None = None,
) -> tuple[Record, pd.DataFrame]:
    """Find the first fault in what was compared, and put it on record.

    options: what the command line said, as the record shows it. defects: the known ones, of all models.
    rules: the user's, where they are not the shipped ones.
    """
    plans = _plans(results, stages)
    item_ids = [item.id for item in prepared.inputs]
    frame = taps_frame(comparison.rows)
    hops = [
        summarise_hop(
            hop,
            frame,
            prepared.taps,
            comparison.logits.get(hop.name),
            _coverage_of(hop, prepared),
            _blocked(hop, results),
        )
        for hop in hops_of(stages)
    ]
    findings = [*prepared.findings, *_stage_findings(results), *_runtime_findings(results), *_local_findings(results)]
    passing = {hop.to for hop in hops if hop.verdict == "pass"}
    findings += last_position_findings(results, passing) if not prepared.variant.mask_as_input else []
    findings += overflow_findings(comparison.rows, prepared.rms_norms)
    if said := unjudged(stages):
        findings.append(Finding(kind="numeric", severity="warning", what=said))
    failed = (
        _crashed(results) or any(hop.verdict == "fail" for hop in hops) or any(f.severity == "error" for f in findings)
    )
    tensors = {tap: name for plan in reversed(plans.values()) for tap, name in plan.names.items()}
    kinds = {tap: kind for plan in reversed(plans.values()) for tap, kind in plan.ops.items()}
    modules = {tap: {**names, "tflite": tensors.get(tap)} for tap, names in prepared.modules.items()}
    faults = [_with_mask(fault, traces) for fault in locate(hops, frame, modules, kinds)]
    faults = _owned(faults, frame, findings, results, traces)
    record = Record(
        model=prepared.model,
        run_id=run_id,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        verdict="fail" if failed or not hops else "pass",
        exit_code=3 if _crashed(results) else int(failed),
        source=prepared.source,
        variant=prepared.variant.name,
        options={"prefill": prepared.prefill, "kv_cache_len": prepared.kv_cache_len, **options},
        inputs=[
            Input(
                id=item.id,
                tokens=len(item.tokens),
                text=item.text,
                token_ids=item.tokens,
                schedule=prepared.schedules[item.id],
            )
            for item in prepared.inputs
        ],
        stages=[_stage(results[name]) for name in (*_preparing(stages), *stages) if name in results],
        hops=hops,
        cases=cases(hops, frame, item_ids),
        first_fault=faults[0] if faults else None,
        faults=faults,
        findings=findings,
        looser_rules=_looser(prepared.model, rules, comparison) if rules else [],
        taps=modules,
        environment=environment(),
    )
    record.known_defects = on_record(record, match(record, defects))
    return record, frame


def _looser(model: str, rules: list[Rule], comparison: Comparison) -> list[LooserRule]:
    judged = (row for row in comparison.rows if row["verdict"] != "missing" and row["rule"])
    found = looser_than(rules, load_rules(), ((model, row["hop"], row["tap"], row["positions"]) for row in judged))
    return [LooserRule(rule=rule, than=than, limits=limits) for (rule, than), limits in found.items()]


def _plans(results: Results, stages: tuple[str, ...]) -> dict[str, PlanFacts]:
    """The alignment plan of each recipe's file; "none" is that of the float32 one."""
    return {recipe: _plan(results, recipe) for recipe in dict.fromkeys(split(name)[1] for name in stages)}


def _coverage_of(hop: Hop, prepared: Prepared) -> float:
    """The share of taps that a hop must compare: a quantised file's kernels see as many as its float32 twin's.

    Kernels that judge no float32 file see what those do that they are compared with.
    """
    stage = stage_named(split(hop.candidate)[0])
    twin = stage if stage.reference else stage_named(stage.quantised_reference)
    return prepared.coverage.get(Hop(twin.reference, twin.name).name, twin.coverage)


def _preparing(stages: tuple[str, ...]) -> list[str]:
    recipes = dict.fromkeys(split(name)[1] for name in stages)
    return [named(task, recipe) for recipe in recipes for task in ("convert", "tap")]


def _plan(results: Results, recipe: str) -> PlanFacts:
    """What the alignment plan of a recipe's file says; nothing without a flatbuffer."""
    tap = results.get(named("tap", recipe))
    return PlanFacts() if tap is None or tap.status != "ok" else PlanFacts.read(Path(tap.value["plan"]))


def _why_missing(stage: str, tap: str, plan: PlanFacts, results: Results, prepared: Prepared) -> Absent:
    if runs_file(stage):
        absent = plan.why_missing(stage, tap)
        if absent.reason == NO_PREFILL_LOGITS and prepared.prefill_logits:
            return Absent("the file gives no logits on prefill, and was converted to give them")
        return absent
    if stage == "reauthored" and split_tap(tap)[1] in prepared.undeclared:
        return listed(UNDECLARED_POINT)
    modules = results[stage].value.get("absent_modules", []) if stage in results else []
    return Absent(f"{stage} has no such tensor" + (f" (no module {modules[0]})" if modules else ""))


def _blocked(hop: Hop, results: dict[str, TaskResult]) -> str:
    for name in (*hop.stages, ORACLE, HF):
        if results[name].status != "ok":
            return f"stage {name} {results[name].status}: {results[name].detail}"
    return ""


def _with_mask(fault: FirstFault, traces: Path) -> FirstFault:
    """A fault of attention's probabilities, with a word about the mask if that is what differs."""
    if split_tap(fault.tap)[1] != "attn.probs":
        return fault
    hop = Hop.parse(fault.hop)
    names = (hop.judged_against, hop.candidate)
    pair = [Trace.open(traces / name / fault.input).load(fault.tap) for name in names]
    masked = pair[0].shape == pair[1].shape and hides_others(pair[0], pair[1])
    return fault.model_copy(update={"where": ANOTHER_MASK}) if masked else fault


def _owned(
    faults: list[FirstFault],
    frame: pd.DataFrame,
    findings: list[Finding],
    results: dict[str, TaskResult],
    traces: Path,
) -> list[FirstFault]:
    """The faults with whose they are. Of those that no stage is to blame for, the first one of each hop."""
    owned: list[FirstFault] = []
    for fault in faults:
        same_place = frame[frame["tap"].isin(taps_at(fault.tap)) & (frame["input"] == fault.input)]
        compared = set(same_place[same_place["verdict"] != "missing"]["hop"])
        observers = {
            name: results[name].value.get(DIFFERING, [])
            for name in file_stages()
            if name in results and any(hop.endswith(f"->{name}") for hop in compared)
        }
        not_finite = not_finite_stages(fault, frame, traces)
        whose = ownership(fault, faults, findings, observers, not_finite, beyond_float32(fault, frame))
        if is_given(whose.owner) and any(one.hop == fault.hop and one.owner == whose.owner for one in owned):
            continue
        owned.append(fault.model_copy(update={"owner": whose.owner, "evidence": list(whose.evidence)}))
    return owned


def not_finite_stages(fault: FirstFault, frame: pd.DataFrame, traces: Path) -> list[str]:
    """The stages whose values of a fault's tap are NaN or infinite."""
    rows = frame[(frame["tap"] == fault.tap) & (frame["input"] == fault.input) & (frame["hop"] == fault.hop)]
    if not (rows["nan_count"].fillna(0) + rows["inf_count"].fillna(0)).gt(0).any():
        return []
    found = []
    for stage in dict.fromkeys((ORACLE, HF, *Hop.parse(fault.hop).stages)):
        trace = Trace.open(traces / stage / fault.input)
        if fault.tap in trace and not np.isfinite(trace.load(fault.tap)).all():
            found.append(stage)
    return found


def _crashed(results: dict[str, TaskResult]) -> bool:
    """Whether a stage, or what a stage's limits rest on, did not end. What was skipped for it follows from it."""
    return any(result.status in _ENDED_BADLY for result in results.values())


def _local_findings(results: dict[str, TaskResult]) -> list[Finding]:
    """A local pass that did not end: what its limits would have found went unseen, so the run does not pass."""
    return [
        Finding(
            kind="runtime",
            severity="error",
            what=f"{name} {result.status}, so the limits on local errors were not checked: {result.detail}",
        )
        for name, result in results.items()
        if is_local_pass(name) and result.status in _ENDED_BADLY
    ]


def _stage_findings(results: dict[str, TaskResult]) -> list[Finding]:
    """What tasks found while they had the weights in hand."""
    return [Finding.model_validate(found) for result in results.values() for found in result.value.get("findings", [])]


def _runtime_findings(results: dict[str, TaskResult]) -> list[Finding]:
    found = []
    for name in filter(runs_file, results):
        differing = results[name].value.get(DIFFERING, [])
        if differing:
            what = f"{name}: the tapped copy's own outputs differ from the untouched file's at {', '.join(differing)}"
            found.append(Finding(kind="runtime", severity="error", what=what))
    return found + cache_findings(results)


def _stage(result: TaskResult) -> StageResult:
    facts = {
        key: value
        for key, value in result.value.items()
        if key not in ("flatbuffer", "tapped", "plan", "findings", LAST_POSITION)
    }
    return StageResult(
        name=result.name,
        status=result.status,
        seconds=result.seconds,
        peak_rss_mb=result.peak_rss_mb,
        detail=result.detail,
        facts=facts,
    )


def environment() -> dict[str, str]:
    """Versions of what could change a number."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "cpu": _cpu()}
    for name in _VERSIONS:
        try:
            found[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:
            found[name.replace("-", "_")] = "not installed"
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
