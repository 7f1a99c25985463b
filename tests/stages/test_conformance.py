"""Every stage of the registry keeps the contract of `harness/jobs/session.py`: it traces, goes on with a reference's
values, says what it has to say, and ends with one word about a job that it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from quantised_files import QuantisedFile, quantised
from watching import Watcher

from harness.bench.workbench import Bench, bench
from harness.jobs.job import Job
from harness.jobs.reporter import Silent
from harness.jobs.session import Facts, trace_inputs
from harness.names.stages import FLOAT, Stage, every_stage, stage_named
from harness.processes.scheduler import Task, run_tasks
from harness.store.trace import Trace, local, unrounded

pytestmark = pytest.mark.slow
RECIPE = "dynamic_int8"
# Stages that judge nothing but quantised files run one.
RUN = [stage.quantised(RECIPE) if stage.quantised_only else stage for stage in every_stage()]
STAGES = [pytest.param(stage, id=stage.name) for stage in RUN]


def job_of(model: Bench, stage: Stage, folder: Path) -> Job:
    own = quantised(RECIPE) if stage.recipe != FLOAT else QuantisedFile(model.flatbuffer, *model.tapped)
    files = {"flatbuffer": own.file, "tapped": own.tapped, "plan": own.plan} if stage.reads_file else {}
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
        update={"checkpoint": gone, **({"flatbuffer": gone, "tapped": gone} if stage.reads_file else {})}
    )
    task = Task(stage.name, "harness.jobs.session:run", job.model_dump(mode="json"), torch=not stage.runs_file)
    result = run_tasks([task], tmp_path / "run.log", Watcher())[stage.name]
    assert result.status == "crashed"
    assert len(result.detail.splitlines()) == 1
    assert not list((tmp_path / "traces").rglob("*.json"))


def test_rows_that_are_quantised_are_traced_without_it_as_well(tmp_path: Path) -> None:
    """What one step of their grid costs is measured from the two."""
    model = bench("tiny_llama")
    stage = stage_named(f"fakequant[{RECIPE}]")
    facts = trace_inputs(job_of(model, stage, tmp_path), Silent()).as_dict()
    assert (facts["layers"], facts["inputs_quantised"]) == (12, True)
    for item in model.prepared.inputs:
        own = Trace.open(tmp_path / stage.name / item.id)
        plain = Trace.open(unrounded(tmp_path / stage.name) / item.id)
        assert set(own.taps) == set(plain.taps)
        assert np.array_equal(own.load("embed"), plain.load("embed"))
        assert not np.array_equal(own.load("block.0.attn.q"), plain.load("block.0.attn.q"))
