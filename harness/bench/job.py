"""Where a benchmark's process enters: all faults of one model, and the same model unbroken at some seeds.

In: the model's name, ids of faults, seeds. Out: a `Report`, as JSON. In one process, because what is not broken is
traced once, and importing the frameworks takes longer than a fault.
"""

from __future__ import annotations

import itertools
import shutil
from typing import Any

from pydantic import BaseModel

from harness.bench.catalogue import all_faults
from harness.bench.clean import run_clean, run_clean_quantised
from harness.bench.mistake import Mistake
from harness.bench.result import Report
from harness.bench.run import run_fault
from harness.bench.workbench import FEW, Bench
from harness.jobs.reporter import Reporter

# One position, a padded prefill with decode steps, a whole prefill, and several chunks.
CLEAN_INPUTS = (("one", 1, 1), ("padded", 22, 2), ("exact", 32, 0), ("chunked", 45, 2))


class BenchRequest(BaseModel):
    """layers: the first so many at full width, with random weights; None for a miniature.

    seeds: of the clean model. quantised_seeds: of the same by every recipe, on these kernels.
    """

    model: str
    faults: list[str]
    seeds: list[int] = []
    quantised_seeds: list[int] = []
    kernels: list[str] = []
    layers: int | None = None

    @property
    def total(self) -> int:
        return len(self.faults) + len(self.seeds) + len(self.quantised_seeds)


def bench_model(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """A `Report` on one model."""
    request = BenchRequest.model_validate(payload)
    chosen = {fault.id: fault for fault in all_faults()}
    report.progress(0, request.total, "unbroken")
    bench = Bench(request.model, inputs=FEW, device_local=True, layers=request.layers)
    try:
        return _found(bench, request, chosen, report).model_dump(mode="json")
    finally:
        shutil.rmtree(bench.folder, ignore_errors=True)  # this process ends without clearing up after itself


def _found(bench: Bench, request: BenchRequest, chosen: dict[str, Mistake], report: Reporter) -> Report:
    numbers = itertools.count()
    found = Report()
    for name in request.faults:
        report.progress(next(numbers), request.total, name)
        found.results.append(run_fault(bench.decoding if chosen[name].only_in else bench, chosen[name]))
    for seed in request.seeds:
        report.progress(next(numbers), request.total, f"clean, seed {seed}")
        found.clean.append(run_clean(bench, seed, CLEAN_INPUTS))
    for seed in request.quantised_seeds:
        report.progress(next(numbers), request.total, f"clean and quantised, seed {seed}")
        found.clean += run_clean_quantised(bench, seed, CLEAN_INPUTS, request.kernels)
    return found
