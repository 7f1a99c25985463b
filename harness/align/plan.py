"""The alignment plan of a flatbuffer: where each tap is in each signature, and why the others are in none.

In: what the alignment found, or `plan.json`. Out: the plan, the file, and what the plan says of the taps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from harness.align.feeds import Feed
from harness.align.views import TapSource
from harness.names.coverage import FUSED_ATTENTION, LISTED, Absence, listed

FILE = "plan.json"


@dataclass(frozen=True)
class AlignmentPlan:
    """By signature."""

    sources: dict[str, dict[str, TapSource]]  # tap -> where it is
    missing: dict[str, dict[str, Absence]]  # tap -> why it is nowhere
    feeds: dict[str, list[Feed]] = field(default_factory=dict)  # tensors that a local pass can give values

    @classmethod
    def read(cls, path: Path) -> AlignmentPlan:
        """Raises ValueError for a file that holds no plan."""
        return _PLAN.validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        path.write_bytes(_PLAN.dump_json(self))


_PLAN = TypeAdapter(AlignmentPlan)


class Written(NamedTuple):
    """What a tap is in one signature. op: the kind of the operator that writes it."""

    tensor: str
    op: str


@dataclass(frozen=True)
class PlanFacts:
    """What a plan says of its taps."""

    written: dict[str, dict[str, Written]] = field(default_factory=dict)  # signature -> tap -> what it is there
    inner: frozenset[str] = frozenset()  # taps inside a composite, which a delegate runs as one kernel
    missing: dict[str, Absence] = field(default_factory=dict)  # tap -> why a signature lacks it

    @classmethod
    def read(cls, path: Path) -> PlanFacts:
        """Those of a plan's file."""
        plan = AlignmentPlan.read(path)
        sources = [item for taps in plan.sources.values() for item in taps.items()]
        missing: dict[str, Absence] = {}
        for tap, absent in (item for taps in plan.missing.values() for item in taps.items()):
            # Of a tap that several signatures lack, a reason that is not listed counts.
            if tap not in missing or missing[tap].reason:
                missing[tap] = absent
        return cls(
            written={
                signature: {tap: Written(source.name, source.op) for tap, source in taps.items()}
                for signature, taps in plan.sources.items()
            },
            inner=frozenset(tap for tap, source in sources if source.inner),
            missing=missing,
        )

    def where(self, tap: str, signature: str = "") -> tuple[str, Written] | None:
        """(signature, what the tap is there), of the first signature that has it where the one asked for has not."""
        own = {signature: self.written[signature]} if signature in self.written else {}
        return next(((name, taps[tap]) for name, taps in {**own, **self.written}.items() if tap in taps), None)

    def why_missing(self, stage: str, tap: str) -> Absence:
        """Why a stage that runs the file lacks a tap, or positions of it."""
        if tap in self.inner and LISTED[FUSED_ATTENTION].holds(stage, tap):
            return listed(FUSED_ATTENTION)
        return self.missing.get(tap, Absence("no such tensor in the flatbuffer"))
