"""The process of a stage whose laws are checked: it traces its inputs as any stage does, and the laws rest on the same
loaded model.

In: a `Job`, with the input that laws are checked on. Out: its facts; what the laws came to lies among the traces.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.jobs.driver import driver_of, driving
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter, ServingReporter, costs_only_this_stage
from harness.jobs.session import Session, trace_inputs
from harness.laws.check import check_laws

# Of an input as many tokens go through the stage once more, and of many inputs so many, evenly spread.
_TOKENS, _INPUTS = 96, 8


def passed_again(inputs: Sequence[JobInput]) -> list[JobInput]:
    """The inputs of a stage as those of its second pass: each as one prompt, cut, and each once."""
    found: dict[tuple[tuple[int, ...], int], str] = {}
    for item in inputs:
        tail = item.decode_tail if len(item.tokens) <= _TOKENS else 1
        if not item.logits_only:
            found.setdefault((tuple(item.tokens[:_TOKENS]), tail), item.id)
    told = [JobInput(id=name, tokens=list(tokens), decode_tail=tail) for (tokens, tail), name in found.items()]
    return told if len(told) <= _INPUTS else [told[n * (len(told) - 1) // (_INPUTS - 1)] for n in range(_INPUTS)]


def run(payload: object, report: Reporter) -> dict[str, object]:
    """As `harness/jobs/session.py`, with the laws checked before the first input is traced: what runs them is there."""
    job = Job.model_validate(payload)

    def laws(session: Session) -> None:
        if job.laws is not None and job.reference is None:
            report.progress(0, len(job.inputs), "laws")
            with driver_of(job.stage, session, job.own_stage) as driver:
                check_laws(driver, job.laws, job.dimensions.tokens, job.traces, passed_again(job.inputs))

    with costs_only_this_stage():
        return trace_inputs(job, report, checked=laws).as_dict()


def serve(payload: object, report: ServingReporter) -> dict[str, int]:
    """A process that keeps its model and checks the laws on whatever input it is asked for."""
    job = Job.model_validate(payload)
    served = 0
    with costs_only_this_stage(), driving(job) as driver:
        report.answer()
        for request in report.requests():
            check_laws(driver, JobInput.model_validate(request), job.dimensions.tokens, job.traces)
            report.answer()
            served += 1
    return {"inputs": served}
