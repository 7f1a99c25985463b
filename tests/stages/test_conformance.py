"""Every stage of the registry keeps the contract of `harness/jobs/session.py`: it traces, goes on with a reference's
values, says what it has to say, and ends with one word about a job that it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from watching import Watcher

from harness.bench.workbench import Bench, bench
from harness.jobs.job import Job
from harness.jobs.reporter import Silent
from harness.jobs.session import Facts, trace_inputs
from harness.names.stages import Stage, every_stage
from harness.processes.scheduler import Task, run_tasks
from harness.store.trace import Trace, local

pytestmark = pytest.mark.slow
STAGES = [pytest.param(stage, id=stage.name) for stage in every_stage()]


def job_of(model: Bench, stage: Stage, folder: Path) -> Job:
    tapped, plan = model.tapped
    files = {"flatbuffer": model.flatbuffer, "tapped": tapped, "plan": plan} if stage.runs_file else {}
    return model.job(stage.name, folder, None, files)


@pytest.mark.parametrize("stage", STAGES)
def test_it_traces_every_input_whole_and_reports_facts(stage: Stage, tmp_path: Path) -> None:
    model = bench("tiny_llama")
    facts = trace_inputs(job_of(model, stage, tmp_path), Silent())
    assert isinstance(facts, Facts)
    assert json.loads(json.dumps(facts.as_dict())) == facts.as_dict()
    for item in model.prepared.inputs:
        trace = Trace.open(tmp_path / stage.name / item.id)
        lacking = set(model.prepared.taps) - set(trace.taps)
        assert all(tap.endswith("attn.probs") for tap in lacking), "a kernel may keep these to itself"
        assert all(trace.load(tap).shape[:2] == (1, len(item.tokens)) for tap in trace.taps)


@pytest.mark.parametrize("stage", [one for one in STAGES if one.values[0].local_reference])  # type: ignore[union-attr]
def test_it_goes_on_with_the_values_of_its_reference(stage: Stage, tmp_path: Path) -> None:
    """The KV cache shows it: it holds the reference's keys and values, whatever the stage itself computed."""
    model = bench("tiny_llama")
    reference = model.sound / stage.local_reference
    trace_inputs(job_of(model, stage, tmp_path).model_copy(update={"reference": reference}), Silent())
    for item in model.prepared.inputs:
        own, given = Trace.open(local(tmp_path / stage.name) / item.id), Trace.open(reference / item.id)
        values = given.load("block.1.attn.v").astype(np.float32)
        assert np.array_equal(own.load("block.1.cache.v").astype(np.float32), values)


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_that_it_cannot_do_costs_the_stage_and_leaves_no_half_trace(stage: Stage, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    job = job_of(bench("tiny_llama"), stage, tmp_path / "traces")
    job = job.model_copy(
        update={"checkpoint": gone, **({"flatbuffer": gone, "tapped": gone} if stage.runs_file else {})}
    )
    task = Task(stage.name, "harness.jobs.session:run", job.model_dump(mode="json"), torch=not stage.runs_file)
    result = run_tasks([task], tmp_path / "run.log", Watcher())[stage.name]
    assert result.status == "crashed"
    assert len(result.detail.splitlines()) == 1
    assert not list((tmp_path / "traces").rglob("*.json"))
