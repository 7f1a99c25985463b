"""Where a stage's process enters: rebuild the job, load the spec if the stage needs it, run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.spec import GenerativeModel, SpecRef, load_spec
from harness.stages.job import Job
from harness.stages.report import Reporter, costs_only_this_stage


def hf(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    from harness.stages import hf as stage

    job = Job.model_validate(payload)
    with costs_only_this_stage():
        return stage.run(job, model_of(job), report)


def reauthored(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    from harness.stages import reauthored as stage

    job = Job.model_validate(payload)
    with costs_only_this_stage():
        return stage.run(job, model_of(job), report)


def tflite(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    from harness.stages import tflite as stage

    return stage.run(Job.model_validate(payload), None, report)


def local_tflite(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    from harness.stages import local_tflite as stage

    return stage.run(Job.model_validate(payload), None, report)


def descend(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    from harness.stages import descend as stage

    job = Job.model_validate(payload)
    with costs_only_this_stage():
        return stage.run(job, model_of(job), report)


def model_of(job: Job) -> GenerativeModel:
    return load_spec(SpecRef(Path(job.spec_file), job.spec_variable, {}))
