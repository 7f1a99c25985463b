"""A stage that takes over the traces of its twin has those that it would have computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantised_files import quantised

from harness.bench.workbench import bench
from harness.jobs.facts import Facts
from harness.jobs.job import Job, TwinJob
from harness.jobs.reporter import Silent
from harness.jobs.session import trace_inputs
from harness.names.stages import FAKEQUANT, FAKEQUANT_BUILTIN, named
from harness.store.trace import Trace

pytestmark = pytest.mark.slow


def traced(stage: str, recipe: str, folder: Path, twin: TwinJob | None = None) -> tuple[Job, Facts]:
    own = quantised(recipe)
    files = {"flatbuffer": own.file, "tapped": own.tapped, "plan": own.plan}
    job = bench("tiny_llama").job(named(stage, recipe), folder, None, files)
    if twin is not None:
        job = job.model_copy(update={"twin": twin, "opens": "harness.jobs.twin:open_session"})
    return job, trace_inputs(job, Silent())


@pytest.mark.parametrize("recipe", ["fp16", "weight_only_int8"])
def test_weights_alone_are_the_same_for_both(recipe: str, tmp_path: Path) -> None:
    one, said = traced(FAKEQUANT, recipe, tmp_path / "one")
    own, computed = traced(FAKEQUANT_BUILTIN, recipe, tmp_path / "own")
    told = said.twins[FAKEQUANT_BUILTIN]
    taken, facts = traced(FAKEQUANT_BUILTIN, recipe, tmp_path / "taken", TwinJob(traces=one.traces, facts=told))
    assert facts.recorded() == computed.recorded()
    for item in one.inputs:
        left, right = Trace.open(own.traces / item.id), Trace.open(taken.traces / item.id)
        assert list(left.taps) == list(right.taps)
        for tap in left.taps:
            assert np.array_equal(left.load(tap), right.load(tap), equal_nan=True), tap


def test_a_file_that_quantises_inputs_has_no_twin(tmp_path: Path) -> None:
    _, said = traced(FAKEQUANT, "dynamic_int8", tmp_path / "one")
    assert not said.twins
    assert "twins" not in said.recorded()
