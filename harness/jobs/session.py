"""What every stage is to the engine: a model that is loaded once and traces the inputs it is given.

In: nothing. Out: the contract (`Session`, `Given`; what it says is `Facts`) and what drives any stage by it: `run` for
the inputs of a job, `serve` for one input after the other. Both are entered in a process of their own.

A stage is a function `open_session(job, given)` that yields a `Session` and lets go of the model when it is left; its
line in `harness/names/stages.py` names that function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.jobs.facts import Facts
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter, ServingReporter, costs_only_this_stage
from harness.spec.load import load_spec
from harness.spec.model import Model, SpecRef
from harness.spec.patched import watching
from harness.spec.route import Load, RouteModel
from harness.store.trace import Trace
from harness.system.named_function import named_function


@dataclass(frozen=True)
class Given:
    """What is run in place of what the job names, by those who break models on purpose.

    model: the declaration. load: what loads the network of the route's own version.
    """

    model: Model | None = None
    load: Load | None = None

    def declared(self, job: Job) -> Model:
        return self.model or load_spec(SpecRef.of(job.spec_file, job.spec_variable))

    def loaded(self, own: RouteModel, checkpoint: Path, kv_cache_len: int) -> Any:
        """The network of the route's own version."""
        return self.load(own, checkpoint, kv_cache_len) if self.load else own.load(checkpoint, kv_cache_len)

    def published(self, job: Job) -> Model:
        """The declaration, for a stage that runs the published model: what its file replaces in torch is undone."""
        if self.model is not None:
            return self.model
        with watching() as watched:
            model = self.declared(job)
        watched.undo()
        return model


AS_NAMED = Given()


class Session(Protocol):
    """A stage whose model is loaded."""

    def check(self, inputs: Sequence[JobInput], report: Reporter) -> int:
        """What has to be looked at once, before the inputs are traced. Returns how many runs of an input it took."""

    def trace(self, item: JobInput, reference: Trace | None = None) -> None:
        """Write the trace of one input. reference: the traces whose values replace the stage's own: a local pass."""

    def facts(self) -> Facts:
        """What is known by now."""


Opener = Callable[[Job, Given], AbstractContextManager[Session]]


def trace_inputs(
    job: Job, report: Reporter, given: Given = AS_NAMED, checked: Callable[[Session], object] = lambda session: None
) -> Facts:
    """Trace every input of a job, as a run does; as a local pass where it names a reference.

    checked: is called with the session before the first input is traced.
    """
    with opener(job)(job, given) as session:
        before = session.check(job.inputs, report)
        checked(session)
        for number, item in enumerate(job.inputs):
            report.progress(before + number, before + len(job.inputs), item.id)
            session.trace(item, None if job.reference is None else Trace.open(job.reference / item.id))
        return session.facts()


def run(payload: object, report: Reporter) -> dict[str, object]:
    """A stage's process: payload is a `Job`. Returns the facts that the stage has, as JSON holds them."""
    job = Job.model_validate(payload)
    with costs_only_this_stage():
        return trace_inputs(job, report).as_dict()


def serve(payload: object, report: ServingReporter) -> dict[str, int]:
    """A stage's process that keeps its model and traces whatever input it is asked for.

    Nothing is checked before: that the tapped copy computes what the untouched file does is for a run to prove.
    """
    job = Job.model_validate(payload)
    served = 0
    with costs_only_this_stage(), opener(job)(job, AS_NAMED) as session:
        report.answer()
        for request in report.requests():
            session.trace(JobInput.model_validate(request))
            report.answer()
            served += 1
    return {"inputs": served}


def opener(job: Job) -> Opener:
    """What opens the stage of a job."""
    found: Opener = named_function(job.opens)
    return found
