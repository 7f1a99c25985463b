"""Make a fault in a quantised file, or in what a runtime does with one, and see what is said of it.

In: a bench and a fault. Out: a `Result`.

What a recipe costs is not a fault, so a wrong file may break no limit: then the audit of the recipe is what finds it,
and it is placed on the hop of the price. Nobody else may be accused of it.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness.bench.explaining import first_fault, reference_of
from harness.bench.mistake import InQuantised, Kernel, Mistake, OtherRules, QuantisedSite, ReadByKernels
from harness.bench.narrow_weight import QuantisedFile, broken
from harness.bench.others_quantised import peers_complain
from harness.bench.outcome import Outcome
from harness.bench.quantised import QuantisedBench
from harness.bench.result import Result
from harness.bench.workbench import Bench
from harness.explain.decoder import NotCoveredError
from harness.explain.job import explain_fault
from harness.locate.beyond_float32 import beyond_float32
from harness.locate.owners import ownership
from harness.names.stages import XNNPACK
from harness.record.record import Fault, Finding
from harness.store.cache import sha256_of

AUDIT = "recipe"


@functools.lru_cache(8)
def quantised_bench(bench: Bench, recipe: str, kernels: str = XNNPACK) -> QuantisedBench:
    """The one of a bench and a recipe, with what is sound traced once."""
    return QuantisedBench(bench, recipe, (kernels,))


def judge_quantised(bench: Bench, fault: Mistake, result: Result, site: QuantisedSite) -> None:
    """Fill in what is said of a fault. Raises what making it raises."""
    stages = quantised_bench(bench, site.recipe, site.kernels if isinstance(site, ReadByKernels) else XNNPACK)
    _ = stages.sound  # made before the clock starts
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=stages.folder) as temporary:
        folder = Path(temporary)
        traces = folder / "traces"
        traces.mkdir()
        files, findings, lost = _make(stages, site, folder, traces)
        shipped = files if isinstance(site, (InQuantised, OtherRules)) else None
        outcome = stages.judge(traces, lost, shipped)
        _say(result, outcome, findings)
        if not findings and outcome.fault is not None:
            result.diagnosis = _diagnosis(bench, stages, traces, outcome)
        result.seconds = round(time.monotonic() - began, 2)
        result.others = peers_complain(stages, files.file if files else None, traces, lost)


def _make(
    stages: QuantisedBench, site: QuantisedSite, folder: Path, traces: Path
) -> tuple[QuantisedFile | None, list[Finding], dict[str, str]]:
    """(the file that is wrong, none where it is a kernel; what is found by reading it; stages that did not take it)"""
    if isinstance(site, Kernel):
        (fake,), (runtime,) = stages.fakes, stages.runtimes
        with site.around():
            for reference in (None, stages.sound / fake.name):
                stages.trace(fake, traces, stages.sound_file, reference, runtime.name)
        return None, [], {}
    file = _file(stages, site, folder / "broken.tflite")
    assert sha256_of(file.file) != sha256_of(stages.sound_file.file), "nothing was broken"
    if isinstance(site, ReadByKernels):
        for runtime in stages.runtimes:
            stages.run(runtime, traces, file, stages.sound)
        return file, [], {}
    return file, stages.audit(file), stages.trace_file(traces, file)


def _file(stages: QuantisedBench, site: InQuantised | OtherRules | ReadByKernels, target: Path) -> QuantisedFile:
    if isinstance(site, OtherRules):
        return stages.quantised(site.change(stages.rules), target)
    return stages.aligned(broken(stages.sound_file, site.layer, site.change, target))


def _say(result: Result, outcome: Outcome, findings: Sequence[Finding]) -> None:
    owners = {fault.hop: _owner(outcome, fault, findings) for fault in reversed(outcome.faults)}
    result.accused = sorted({owner for owner in owners.values() if owner not in result.expected_owners})
    if findings:
        result.audits = [AUDIT]
        first = next((finding for finding in findings if finding.key), findings[0])
        result.hop, result.tap, result.owner = result.expected_hop, first.key, first.owner
        result.diagnosis = list(dict.fromkeys(str(finding.code) for finding in findings))
    elif outcome.fault is not None:
        fault = outcome.fault
        result.hop, result.tap, result.owner = fault.hop, fault.tap, owners[fault.hop]
        result.excess, result.local_excess = fault.excess, fault.local_excess


def _owner(outcome: Outcome, fault: Fault, findings: Sequence[Finding]) -> str:
    beyond = beyond_float32(fault, outcome.frame)
    return ownership(fault, outcome.faults, findings, {}, outcome.not_finite, beyond).owner


def _diagnosis(bench: Bench, stages: QuantisedBench, traces: Path, outcome: Outcome) -> list[str]:
    with stages.joined(traces, {}) as joined:
        try:
            found = explain_fault(first_fault(outcome), bench.prepared, reference_of(bench), joined)
        except NotCoveredError:
            return []
    return [entry.hypothesis for entry in found]
