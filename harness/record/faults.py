"""Where the error is made, whose it is, and why. In: nothing. Out: parts of a record."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.names.stages import Hop
from harness.record.part import Number, Part


class FaultyOperator(Part):
    """The operator of a flatbuffer that makes a tap wrong."""

    whose: Literal["kernel", "converter"]
    op: str
    """Its kind."""
    index: int
    """Its number in the subgraph."""
    subgraph: int
    composites: list[str] = Field(default_factory=list)
    """Those that it lies in, outermost first."""
    tensor: str
    """The name of its output."""
    why: str
    error: float | None
    """Of the tap, as a share of its largest value."""
    after: float | None = None
    """The same with what fixes it."""
    signature: str = ""
    """The first one in which it shows."""


class BrokenFloor(Part):
    """The noise floor of a tap that breaks no limit but the one on that: the reference cannot be trusted there."""

    value: float | None
    """None in JSON where it is infinite."""
    limit: Number


class Fault(Part):
    """A tap whose error was introduced there."""

    hop: str
    tap: str
    block: int | None
    """None outside the blocks."""
    input: str = ""
    """The one that shows it most."""
    where: str = ""
    """What the tap is, in words."""
    modules: dict[str, str | None]
    """Its module or tensor by version."""
    op: str | None = None
    """Of a hop into a file: the kind of the operator that writes it."""
    signature: str = ""
    """The one whose tensor and operator of the flatbuffer are named: where the fault is. Empty without a flatbuffer."""
    excess: float | None = None
    position_excess: float | None = None
    local_excess: float | None = None
    """The error of the tap computed from the reference's own values, in units of what float32 costs at that step; none
    where no local pass could tell."""
    local_position_excess: float | None = None
    """The same at the worst single position."""
    reason: str = ""
    """The limits that it breaks, in words."""
    broken: list[str] = Field(default_factory=list)
    """The figures whose limits it breaks, or one of `harness/names/codes.py`."""
    floor: BrokenFloor | None = None
    """The noise floor, where its limit is the only one broken."""
    only_in: Literal["", "decode", "prefill"] = ""
    """The signatures that alone show it, where the other ones are right at the same positions; else empty."""
    first_step: int | None = None
    """Of a fault in decode alone: the first faulty decode step of an input, counted from 1."""
    first_position: int | None = None
    """Where that step is in the input."""
    starts_at: int | None = None
    """The first wrong position, where the tap is right on all inputs before it and wrong after it; none elsewhere."""
    boundary: str = ""
    """What begins at that position: `window`, `rope`, `table`, `cache`, `chunk` or `decode`; empty if nothing known."""
    same_as: str = ""
    """The tap of an earlier fault of the hop that is the same mistake: the same step, of another block or of keys in
    place of queries, wrong in the same part of the sequence."""
    owner: str = ""
    """Whose it is; `harness/locate/owners.py` lists them."""
    evidence: list[str] = Field(default_factory=list)
    """What says so."""
    operator: FaultyOperator | None = None

    @property
    def between(self) -> Hop:
        """The hop, as a value."""
        return Hop.parse(self.hop)


class Diagnosis(Part):
    """A cause that was tried at a fault and closes the gap."""

    hypothesis: str
    """A name for the cause."""
    detail: str
    """What it says about this model."""
    explains: Number
    """Share of the squared error there, 0 to 1."""
    excess_before: float | None = None
    """Of the error made at this tap alone, as it is."""
    excess_after: float | None = None
    """The same as it would be if that were the cause."""
    change: str = ""
    """What to do about it."""
    hop: str = ""
    tap: str = ""
    modules: dict[str, str | None] = Field(default_factory=dict)
    """Those of the tap, by version."""
