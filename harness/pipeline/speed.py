"""How fast the stages of a run are, after all its other work. In: the run and its record. Out: the record with a part
more, and findings of what was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.jobs.prepared import Prepared
from harness.names.codes import FindingCode
from harness.names.stages import ORACLE, Stage, stage_named
from harness.pipeline.tasks import RunPaths, job_payload, load_of
from harness.pipeline.work import Work, place_of, processes
from harness.processes.scheduler import Results, Task, TaskResult
from harness.record.record import Finding, Record
from harness.record.speed import SpeedTable, StageSpeed
from harness.speed.machine import usable_cores
from harness.speed.prompt import prompt_tokens


def stages_with_speed(stages: Sequence[str]) -> list[Stage]:
    """Those that somebody might run: neither the oracle nor a file's numbers in another model."""
    return [stage for stage in map(stage_named, stages) if stage.name != ORACLE and not stage.weights_of_file]


def with_speed(record: Record, state: Work, prepared: Prepared, stages: Sequence[str], results: Results) -> Record:
    """The record with its `speed`. results: those of the stages."""
    threads = state.options.speed_threads or usable_cores()
    chosen = stages_with_speed(stages)
    why_not = {stage.name: why for stage in chosen if (why := _why_not(stage, results))}
    asked = {
        stage.name: _task(place_of(state), prepared, stage, results, threads)
        for stage in chosen
        if stage.name not in why_not
    }
    with state.timed("speed"):
        ended = processes(state, prepared, list(asked.values()))
    each = [
        StageSpeed(stage=stage.name, why_not=why_not[stage.name])
        if stage.name in why_not
        else _given(stage.name, ended[asked[stage.name].name])
        for stage in chosen
    ]
    lost = [_lost(one) for one in each if one.why_not and one.stage in asked]
    table = SpeedTable(threads=threads, prompt=prompt_tokens(prepared.prefill, prepared.kv_cache_len), stages=each)
    return record.model_copy(update={"speed": table, "findings": [*record.findings, *lost]})


def _task(place: RunPaths, prepared: Prepared, stage: Stage, results: Results, threads: int) -> Task:
    return Task(
        f"speed of {stage.name}",
        "harness.speed.measure:run",
        {"job": {**job_payload(place, prepared, stage, results), "threads": threads}},
        StageSpeed,
        memory_mb=load_of(stage, prepared)[0],
        torch=not stage.runs_file,
        timeout=place.timeout,
        alone=True,
    )


def _why_not(stage: Stage, results: Results) -> str:
    """Why a stage's speed is not measured; empty where it is."""
    if not stage.drives:
        return "it cannot be run step by step"
    status = results[stage.name].status
    return "" if status == "ok" else f"the stage {'was ' if status == 'skipped' else ''}{status}"


def _given(stage: str, result: TaskResult) -> StageSpeed:
    return result.gave(StageSpeed) or StageSpeed(stage=stage, why_not=result.detail or result.status)


def _lost(one: StageSpeed) -> Finding:
    what = f"how fast {one.stage} is was not measured: {one.why_not}"
    return Finding(kind="runtime", code=FindingCode.SPEED_NOT_MEASURED, severity="warning", what=what)
