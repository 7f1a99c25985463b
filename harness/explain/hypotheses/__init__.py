"""Hypotheses: each says what could be wrong, and predicts what the faulty tap would then hold.

In: `Evidence`. Out: `Proposal`s. A hypothesis is a function with `@hypothesis` above it, in any file of this folder:
no other file has to know it.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from harness.explain.evidence import Evidence
from harness.explain.functions import Array


@dataclass(frozen=True)
class Proposal:
    """detail: what is wrong, in words. change: what to do about it. predicted: the faulty tap if it is so.

    fitted: how many numbers were taken from the observed values to make the prediction.
    held_out: where these are too many to judge it by what it was fitted to, the share of the error that it explains
    at positions it was not fitted to.
    numbers: (published, found) where one number is said to be wrong.
    """

    detail: str
    change: str
    predicted: Array
    fitted: int = 0
    held_out: float | None = None
    numbers: tuple[float, float] | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether the number found is the published one, but for what rounding makes of a fit: no remedy."""
        return self.numbers is not None and math.isclose(*self.numbers, rel_tol=_SAME)


# Two numbers closer than this are the same one: a fit gets no nearer, and a fault that small is within rounding.
_SAME = 1e-5

Propose = Callable[[Evidence], Iterator[Proposal]]


@dataclass(frozen=True)
class Hypothesis:
    """points: it concerns faults that one of these is computed for; none: any. simplicity: 0 for a change that
    somebody would make by mistake, more for what describes rather than explains."""

    name: str
    points: frozenset[str]
    simplicity: int
    propose: Propose

    def applies(self, evidence: Evidence) -> bool:
        return not self.points or bool(self.points & evidence.points)


_REGISTERED: dict[str, Hypothesis] = {}


def hypothesis(name: str, *points: str, simplicity: int = 0) -> Callable[[Propose], Propose]:
    """Register a hypothesis. Raises ValueError for a name that is taken."""

    def register(propose: Propose) -> Propose:
        if name in _REGISTERED:
            raise ValueError(f"two hypotheses are called {name}")
        _REGISTERED[name] = Hypothesis(name, frozenset(points), simplicity, propose)
        return propose

    return register


@cache
def all_hypotheses() -> tuple[Hypothesis, ...]:
    """Every hypothesis of this folder's files."""
    for found in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{found.name}")
    return tuple(_REGISTERED.values())
