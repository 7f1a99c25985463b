"""Where a stage's process enters that keeps its model: it loads once and traces whatever input it is asked for.

In: a job without inputs, and one input per request. Out: a trace per input, in the job's folder, as a run has it. The
flatbuffer is its tapped copy alone; that the untouched file computes the same is for a run to prove.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.stages.entry import model_of
from harness.stages.job import Job, JobInput
from harness.stages.report import Asked, costs_only_this_stage


def hf(payload: dict[str, Any], report: Asked) -> dict[str, Any]:
    from harness.stages import hf as stage

    job = Job.model_validate(payload)
    with costs_only_this_stage(), stage.loaded(job, model_of(job), {}) as trace:

        def every_order(item: JobInput) -> None:
            for order in stage.orders_of(job.stage):
                trace(item, order)

        return _serve(every_order, report)


def reauthored(payload: dict[str, Any], report: Asked) -> dict[str, Any]:
    from harness.stages import reauthored as stage

    job = Job.model_validate(payload)
    with costs_only_this_stage(), stage.loaded(job, model_of(job), {}) as (_, _, trace):
        return _serve(trace, report)


def tflite(payload: dict[str, Any], report: Asked) -> dict[str, Any]:
    from harness.stages import tflite as stage

    with stage.loaded(Job.model_validate(payload)) as trace:
        return _serve(trace, report)


def _serve(trace: Callable[[JobInput], None], report: Asked) -> dict[str, Any]:
    served = 0
    report.answer()
    for request in report.requests():
        trace(JobInput.model_validate(request))
        report.answer()
        served += 1
    return {"inputs": served}
