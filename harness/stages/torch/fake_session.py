"""What a stage `fakequant[R]` does on any route, once the numbers of the file stand in the model.

In: the session of the route's own stage, with layers that compute with the file's numbers. Out: a trace per input, a
second one without the rounding of inputs where the file rounds them, and the facts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pydantic import Field

from harness.jobs.facts import Facts
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter
from harness.names.recipes import GIVEN_FILE
from harness.names.stages import FAKEQUANT, FAKEQUANT_BUILTIN, split
from harness.record.recipes import QuantisedLayer
from harness.record.record import Finding
from harness.stages.torch.fake_quantised import RowGrid
from harness.store.trace import Trace, unrounded


class FakeQuantFacts(Facts):
    """What the stage says beside its traces."""

    layers: int  # how many have the file's numbers
    inputs_quantised: bool  # whether the file quantises the inputs of any
    fits: list[QuantisedLayer] = Field(default_factory=list)  # of a file that the user gave: how near each weight is


class OwnSession(Protocol):
    """The session of a route's own stage, as far as it is asked for here."""

    job: Job
    absent: list[str]

    def trace(self, item: JobInput, reference: Trace | None = None) -> None: ...
    def trace_into(self, folder: Path, item: JobInput, reference: Trace | None = None) -> None: ...


class RoundedLayer(Protocol):
    """A layer with the numbers of the file. rows: how its input is quantised."""

    @property
    def rows(self) -> RowGrid: ...


Own = TypeVar("Own", bound=OwnSession)
Layer = TypeVar("Layer", bound=RoundedLayer)


@dataclass
class FakeQuantisedSession(ABC, Generic[Own, Layer]):
    """A `Session`. own: of the route's own stage."""

    own: Own
    layers: Sequence[Layer]
    fits: list[QuantisedLayer] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def quantises_inputs(self) -> bool:
        return any(layer.rows is not RowGrid.NONE for layer in self.layers)

    def check(self, inputs: Sequence[JobInput], report: Reporter) -> int:
        """Nothing: the weights are the file's, which the audit of the recipe holds against the checkpoint's."""
        return 0

    def trace(self, item: JobInput, reference: Trace | None = None) -> None:
        self.own.trace(item, reference)
        if self.quantises_inputs and reference is None and not item.logits_only:
            with self.inputs_as_they_are():
                self.own.trace_into(unrounded(self.own.job.traces), item)

    def facts(self) -> FakeQuantFacts:
        said = FakeQuantFacts(
            absent_modules=self.own.absent, layers=len(self.layers), inputs_quantised=self.quantises_inputs, fits=[]
        )
        told: dict[str, object] = {"fits": self.fits, "findings": self.findings}
        if not self.quantises_inputs:  # how kernels do that is all that the two stages differ in
            told["twins"] = {FAKEQUANT_BUILTIN: said.as_dict()} if split(self.own.job.stage)[0] == FAKEQUANT else {}
        return said.model_copy(update=told)

    @abstractmethod
    def inputs_as_they_are(self) -> AbstractContextManager[None]:
        """Within it the inputs of no layer are quantised."""


def is_audited_here(job: Job) -> bool:
    """Of a file that the user gave: the weights of the checkpoint, which it is held against, are in hand here alone."""
    return split(job.stage) == (FAKEQUANT, GIVEN_FILE) and job.reference is None
