"""What the processes of a run give back, beside the stages' `Facts`: a class for each kind of task.

In: JSON, as it comes out of a process (`harness/processes/scheduler.py`). Out: the same with names and types.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from harness.jobs.facts import Facts
from harness.jobs.prepared import Prepared
from harness.processes.scheduler import Results
from harness.record.recipes import QuantisedLayer
from harness.record.record import Diagnosis, FaultyOperator, Finding
from harness.spec.rests import Rests


class Preparation(Prepared):
    """What was prepared, and what it rests on."""

    rests: Rests | None = Field(default=None, exclude=True)  # None where that cannot be told, or nobody asked


class Audited(BaseModel):
    """What the audit of the configs found."""

    findings: list[Finding]
    rests: Rests | None = None  # None where that cannot be told


class Drawn(BaseModel):
    """What the reference goes on with."""

    tokens: dict[str, list[int]]  # by input: the tokens that it drew, without those it was given
    rests: Rests | None = None  # None where that cannot be told


class Converted(BaseModel):
    """A conversion, or one from the cache."""

    flatbuffer: str  # path
    sha256: str  # of the file
    cached: bool  # whether it was there already

    def recorded(self) -> dict[str, object]:
        """What the record says of it."""
        return self.model_dump(include={"sha256", "cached"})


class ConstantsAudit(BaseModel):
    """A flatbuffer's constants against the checkpoint, or a quantised file's against those of the float32 one."""

    findings: list[Finding] = Field(default_factory=list)
    constants_matched: int | None = None  # how many are a parameter, bit by bit; None of a quantised file
    constants_computed: int | None = None  # how many are computed from parameters; None of a quantised file
    layers: list[QuantisedLayer] = Field(default_factory=list)  # of a quantised file: how near each weight is
    family: str = ""  # of a quantised file, see `harness/names/recipe_families.py`; empty where it cannot be told


class Tapped(ConstantsAudit):
    """A flatbuffer aligned and tapped."""

    tapped: str  # path of the tapped copy
    plan: str  # path of the alignment plan
    sha256: str  # of the flatbuffer

    def recorded(self) -> dict[str, object]:
        """What the record says of it."""
        said = ("sha256", "constants_matched", "constants_computed")
        return {name: value for name in said if (value := getattr(self, name)) is not None}


class Descended(BaseModel):
    """The operators of a flatbuffer that make taps wrong."""

    stage: str
    faults: dict[str, FaultyOperator]  # by tap; absent where the stage is right there


class Explained(BaseModel):
    """The causes of a run's faults."""

    diagnosis: list[Diagnosis]
    unexplained: list[str]  # a sentence for each fault that nothing explains
    right_by_itself: list[Finding] = Field(default_factory=list)  # the steps of faults that were right in a local pass


class Repro(BaseModel):
    """A folder that shows a fault."""

    script: str  # path


def facts_of(results: Results, stage: str) -> Facts:
    """What a stage said; nothing where it did not run, or ended badly."""
    found = results[stage].gave(Facts) if stage in results else None
    return found or Facts()
