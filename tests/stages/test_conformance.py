"""Every stage of the registry keeps the contract of `harness/jobs/session.py`: it traces, goes on with a reference's
values, says what it has to say, and ends with one line about a job that it cannot do, or that somebody ended."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import stopping_stage
from quantised_files import QuantisedFile, quantised
from watching import Watcher

from harness.bench.workbench import Bench, bench
from harness.jobs.job import Job
from harness.jobs.reporter import Silent
from harness.jobs.session import Facts, trace_inputs
from harness.names.stages import BUILTIN, FLOAT, REAUTHORED, Stage, every_stage, stage_named
from harness.names.taps import LOGITS
from harness.processes.scheduler import Task, TaskResult, run_tasks
from harness.store.trace import Trace, local, unrounded

pytestmark = pytest.mark.slow
RECIPE = "dynamic_int8"
# Stages that judge nothing but quantised files run one.
RUN = [stage.quantised(RECIPE) if stage.quantised_only else stage for stage in every_stage() if not stage.place]
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


@pytest.mark.parametrize("stage", STAGES)
def test_of_the_text_that_is_measured_it_traces_the_same_logits_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    model = bench("tiny_llama")
    given = model.prepared.inputs[-1]
    text = given.model_copy(update={"id": "~text-1", "logits_only": True})
    job = job_of(model, stage, tmp_path)
    trace_inputs(job.model_copy(update={"inputs": [given, text]}), Silent())
    own, whole = (Trace.open(tmp_path / stage.name / item.id) for item in (text, given))
    assert set(own.taps) == {LOGITS}
    assert np.array_equal(own.load(LOGITS), whole.load(LOGITS))
    assert own.covered(LOGITS) == whole.covered(LOGITS)
    assert [folder.parent.name for folder in tmp_path.rglob("~text-1")] == [
        stage.name
    ]  # none to measure noise or steps


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


def stopped(stage: Stage, folder: Path, number: int | None, timeout: float = 300) -> tuple[TaskResult, Job]:
    """Run a stage that stops within the trace of its last input. number: of the signal by which it is ended there."""
    job = job_of(bench("tiny_llama"), stage, folder).model_copy(update={"opens": "stopping_stage:open_session"})
    folder.mkdir()
    note, over = stopping_stage.reached(job), threading.Event()

    def end_it() -> None:
        while not note.exists():
            if over.wait(0.05):
                return
        os.kill(int(note.read_text()), number or 0)

    watching = threading.Thread(target=end_it)
    watching.start()
    payload = job.model_dump(mode="json")
    task = Task(stage.name, "harness.jobs.session:run", payload, torch=not stage.runs_file, timeout=timeout)
    try:
        result = run_tasks([task], folder.parent / "run.log", Watcher())[stage.name]
    finally:
        over.set()
        watching.join()
    return result, job


def stages_left() -> list[str]:
    """Processes of stages that are still there a moment later: the server that forks them may be, and the tracker of
    what processes share."""
    until = time.monotonic() + 5
    while True:
        own = psutil.Process().children()
        servers = [one for one in own if "multiprocessing.forkserver" in " ".join(one.cmdline())]
        left = [one for one in own if one not in servers and "resource_tracker" not in " ".join(one.cmdline())]
        left += [child for server in servers for child in server.children()]
        if not left or time.monotonic() > until:
            return [" ".join(one.cmdline()) for one in left]
        time.sleep(0.05)


def check_ended(result: TaskResult, job: Job) -> None:
    """It said so in one line, left no process, and of its traces those are whole that it had finished."""
    assert result.value is None
    assert len(result.detail.splitlines()) == 1
    assert stages_left() == []
    *finished, last = (job.traces / item.id for item in job.inputs)
    for folder in finished:
        trace = Trace.open(folder)
        assert all(trace.load(tap).shape[1] == trace.length for tap in trace.taps)
    with pytest.raises(FileNotFoundError):
        Trace.open(last)


ENDS = [
    *(pytest.param(stage, signal.SIGKILL, id=stage.name) for stage in RUN),
    *(pytest.param(stage_named(name), signal.SIGSEGV, id=f"{name}, SIGSEGV") for name in (REAUTHORED, BUILTIN)),
]


@pytest.mark.parametrize(("stage", "number"), ENDS)
def test_ended_within_a_trace_it_costs_the_stage_and_leaves_no_half_trace(
    stage: Stage, number: signal.Signals, tmp_path: Path
) -> None:
    result, job = stopped(stage, tmp_path / "traces", number)
    assert stopping_stage.reached(job).exists()
    assert result.status == "crashed"
    assert f"killed by {number.name}" in result.detail
    check_ended(result, job)


@pytest.mark.parametrize("name", [REAUTHORED, BUILTIN])
def test_one_that_hangs_ends_with_its_time_limit(name: str, tmp_path: Path) -> None:
    result, job = stopped(stage_named(name), tmp_path / "traces", None, timeout=10)
    assert stopping_stage.reached(job).exists(), "it was still loading: the machine is too busy for this test"
    assert result.status == "timeout"
    assert result.detail.startswith("ended after its time limit of 10 s")
    check_ended(result, job)


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
