"""The laws of the stages: what must hold with no reference. In: nothing. Out: a part of a record."""

from __future__ import annotations

from typing import Literal

from harness.record.part import Part

LawVerdict = Literal["holds", "broken", "not applicable", "not run"]


class LawResult(Part):
    """One law of one stage, see `harness/names/laws.py`."""

    stage: str
    law: str
    verdict: LawVerdict
    why: str = ""
    """How it is broken, or why it does not apply or was not run; empty where it holds."""
    tap: str = ""
    """Where it comes nearest to its limit, or is broken first; empty where no bit differs."""
    position: int | None = None
    """The position or slot there."""
    figure: float | None = None
    """Of a law that rounding may bend: the excess over the floor, nearest to its limit; 0 where no bit differs."""
    limit: float | None = None
    """Of that figure; none for laws of bits."""
    inherited: str = ""
    """The stage before it that breaks the same law, if one does."""
