"""What the reference draws for a run that decodes: a process beside the preparation, and its answer put in place.

In: a `Prepared` whose `to_draw` lacks tokens. Out: the same with whole inputs.
"""

from __future__ import annotations

from harness.inputs.tokens import describe_schedule, schedule_of
from harness.jobs.job import JobInput
from harness.jobs.prepared import ModelRequest, Prepared, Request
from harness.jobs.results import Drawn
from harness.names.codes import FindingCode
from harness.names.stages import HF, stage_named
from harness.processes.scheduler import Task, TaskResult
from harness.record.record import Finding

DRAW = "draw"


def draw_task(prepared: Prepared, request: Request, timeout: float) -> Task:
    """The process in which the published model draws the tokens."""
    told = ModelRequest(
        prepared=prepared,
        cache_root=request.cache_root,
        spec_file=request.spec_file,
        spec_variable=request.spec_variable,
    )
    return Task(
        DRAW,
        "harness.stages.huggingface.drawing:draw",
        told.model_dump(mode="json"),
        Drawn,
        memory_mb=stage_named(HF).memory.mb(prepared.weights_mb),
        torch=True,
        timeout=timeout,
    )


def with_drawn(prepared: Prepared, result: TaskResult) -> Prepared:
    """With the tokens that were drawn. Where the process did not end, with the inputs as they were given and an error:
    what was to be decoded is not compared."""
    drawn = result.gave(Drawn)
    inputs = [*prepared.inputs, *(_whole(item, drawn) for item in prepared.to_draw)]
    schedules = {item.id: _scheduled(item, prepared) for item in inputs}
    findings = list(prepared.findings)
    if drawn is None:
        what = f"nothing was decoded after the inputs: hf could not draw tokens ({result.detail})"
        findings.append(Finding(kind="runtime", code=FindingCode.DECODE_NOT_DRAWN, severity="error", what=what))
    changes = {"inputs": inputs, "to_draw": [], "schedules": schedules, "findings": findings}
    return prepared.model_copy(update=changes)


def _whole(item: JobInput, drawn: Drawn | None) -> JobInput:
    if drawn is not None:
        return item.model_copy(update={"tokens": [*item.tokens, *drawn.tokens[item.id]]})
    tail = item.decode_tail - item.drawn
    return item.model_copy(update={"decode_tail": tail, "drawn": 0})


def _scheduled(item: JobInput, prepared: Prepared) -> str:
    steps = schedule_of(item, prepared)
    return describe_schedule(steps)
