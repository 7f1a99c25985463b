"""What a run found that is not an error at a tap.

In: the preparation, task results and the rows of the taps. Out: findings.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.compare.overflow import overflow_findings
from harness.jobs.facts import Facts
from harness.jobs.prepared import Prepared
from harness.jobs.results import Tapped, facts_of
from harness.names.codes import FindingCode
from harness.names.owners import RECIPE
from harness.names.recipes import STATIC
from harness.names.sample import KEPT_WHOLE
from harness.names.stages import runs_file, split
from harness.pipeline.comparison import samples_of
from harness.pipeline.end_findings import cache_findings, last_position_findings
from harness.pipeline.tasks import SENSITIVITY, is_local_pass
from harness.processes.scheduler import TaskResult
from harness.record.record import Finding, HopResult
from harness.record.tap_row import TapRow

_ENDED_BADLY = ("crashed", "timeout")


def findings_of(
    prepared: Prepared,
    results: dict[str, TaskResult],
    stages: tuple[str, ...],
    hops: Sequence[HopResult],
    rows: Sequence[TapRow],
) -> list[Finding]:
    """Everything that numbers at the taps do not say: of the preparation, of the stages, and of what they came to."""
    found = [*prepared.findings, *stage_findings(results), *runtime_findings(results), *local_findings(results)]
    passing = {hop.to for hop in hops if hop.verdict == "pass"}
    found += last_position_findings(results, passing) if not prepared.variant.mask_as_input else []
    found += sensitivity_findings(results)
    found += static_findings(prepared)
    found += overflow_findings(rows, prepared.rms_norms)
    return found + text_findings(prepared) + sample_findings(prepared)


def static_findings(prepared: Prepared) -> list[Finding]:
    """An error for each recipe whose activations are whole numbers with fixed ranges: runtimes are not held to them.

    No stage here computes with such ranges, so that an error of a kernel could not be told from their price.
    """
    return [
        Finding(
            kind="runtime",
            code=FindingCode.RUNTIME_NOT_JUDGED,
            severity="error",
            what=f"the file by {recipe} has activations that are whole numbers with fixed ranges: what those cost, and "
            "what runtimes compute with them, is not judged; its weights are",
            owner=f"{RECIPE} {recipe}",
        )
        for recipe in prepared.recipes
        if recipe in STATIC
    ]


def sample_findings(prepared: Prepared) -> list[Finding]:
    """A warning of inputs of which most taps were compared at some positions only."""
    samples = samples_of(prepared)
    if not samples:
        return []
    said = ", ".join(
        f"{item.id} at {len(samples[item.id].positions):,} of {len(item.tokens):,} positions"
        for item in prepared.inputs
        if item.id in samples
    )
    whole = ", ".join(sorted(KEPT_WHOLE))
    what = (
        f"inputs of more than {prepared.whole_up_to:,} positions are compared at some of them: {said}; "
        f"at every position only {whole}"
    )
    return [Finding(kind="numeric", code=FindingCode.POSITIONS_SAMPLED, severity="warning", what=what)]


def text_findings(prepared: Prepared) -> list[Finding]:
    """A warning where perplexity was to be measured and there was nothing to measure it on."""
    if not prepared.text.why_not:
        return []
    what = f"perplexity was not measured: {prepared.text.why_not}"
    return [Finding(kind="numeric", code=FindingCode.TEXT_NOT_MEASURED, severity="warning", what=what)]


def crashed(results: dict[str, TaskResult]) -> bool:
    """Whether a stage, or what a stage's limits rest on, did not end. What was skipped for it follows from it."""
    return any(result.status in _ENDED_BADLY for result in results.values())


def local_findings(results: dict[str, TaskResult]) -> list[Finding]:
    """A local pass that did not end: what its limits would have found went unseen, so the run does not pass."""
    lost = {name: result for name, result in results.items() if is_local_pass(name)}
    return _lost(lost, FindingCode.LOCAL_PASS_LOST, "the limits on local errors were not checked")


def sensitivity_findings(results: dict[str, TaskResult]) -> list[Finding]:
    """What each tensor costs was to be measured, and is not known."""
    lost = {name: result for name, result in results.items() if split(name)[0] == SENSITIVITY}
    return _lost(lost, FindingCode.SENSITIVITY_LOST, "what each tensor costs is not known")


def _lost(results: dict[str, TaskResult], code: FindingCode, so: str) -> list[Finding]:
    """An error for each that did not end. so: what follows from it."""
    return [
        Finding(kind="runtime", code=code, severity="error", what=f"{name} {result.status}, so {so}: {result.detail}")
        for name, result in results.items()
        if result.status in _ENDED_BADLY
    ]


def stage_findings(results: dict[str, TaskResult]) -> list[Finding]:
    """What tasks found while they had the weights in hand."""
    return [found for result in results.values() for found in _found_by(result)]


def _found_by(result: TaskResult) -> list[Finding]:
    said = result.gave(Facts) or result.gave(Tapped)
    return said.findings if said is not None else []


def runtime_findings(results: dict[str, TaskResult]) -> list[Finding]:
    found = []
    for name in filter(runs_file, results):
        differing = facts_of(results, name).steps_differing_from_untouched_file
        if differing:
            what = f"{name}: the tapped copy's own outputs differ from the untouched file's at {', '.join(differing)}"
            found.append(Finding(kind="runtime", code=FindingCode.TAPPED_COPY_DIFFERS, severity="error", what=what))
    return found + cache_findings(results)
