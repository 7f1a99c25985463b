"""The unit of parity: an error divided by what float32 itself costs at that place.

In: sums of squares per position, of candidate against reference and of `hf` against `oracle`.
Out: `Excess`, the ratio over the whole tap and at its worst position. Pure.

Why errors are taken relative to each position's own norm: trained models park a value of 10^4 in one
channel of the first token (an attention sink). In a plain norm over the tap that one number outweighs
every other, and the error of a single number is as much luck as noise: float32 may be exact there in one
version and off by its usual amount in the other, a ratio of 20 between two faithful models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from harness.compare.metrics import PositionStats

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

# One rounding to float32 is off by at most this share of the value. It stands in for the noise where
# float32 happens to be exact (an embedding, a probability of 1), so that 0/0 never decides.
UNIT_ROUNDOFF = 2.0**-24


@dataclass(frozen=True)
class Excess:
    """whole: over all positions. worst: at `worst_position`, an index into the positions given."""

    whole: float
    worst: float
    worst_position: int


@dataclass(frozen=True)
class NoiseFloor:
    """What float32 costs at a tap on one input: norm(hf - oracle) / norm(oracle) per position, `[time]`.

    norms: norm(oracle) per position.
    typical: the median of that cost over all positions of all inputs; see `with_typical`.
    at: the positions at which it is known, in order, of a tap that is not kept at every one; elsewhere it is NaN.
    """

    relative: Floats
    norms: Floats
    typical: float = 0.0
    at: Ints | None = None

    @classmethod
    def of(cls, *samples: PositionStats) -> NoiseFloor:
        """From `hf` and further float32 runs, each against `oracle`: the root mean square over runs."""
        norms = np.sqrt(samples[0].squared_reference)
        error = np.sqrt(np.mean([stats.squared_error for stats in samples], axis=0))
        return cls(_relative(error, norms), norms)

    def spread(self, at: Ints, length: int) -> NoiseFloor:
        """A floor of the positions `at` alone as one of an input of `length`."""
        return NoiseFloor(_spread(self.relative, at, length), _spread(self.norms, at, length), self.typical, at)

    @property
    def known(self) -> Floats:
        """What float32 costs at the positions where that is known."""
        return self.relative if self.at is None else self.relative[self.at]

    @cached_property
    def floor(self) -> Floats:
        """The noise to divide by. At no position is it less than is typical of the tap: over the few
        numbers of one position float32 is now and then exact by luck. NaN stays NaN."""
        return np.maximum(self.relative, max(self.typical, UNIT_ROUNDOFF))

    @cached_property
    def whole(self) -> float:
        """The mean over positions."""
        return float((self.floor if self.at is None else self.floor[self.at]).mean())


def with_grid(noise: NoiseFloor, squared_error: Floats) -> NoiseFloor:
    """The floor of a runtime that quantises the inputs of layers: what one step of their grid costs belongs to it.

    squared_error: per position where the noise is known, of the same weights with those inputs rounded against the same
    without. Two right computations may round every number to another side, as they differ by float32's noise and the
    next layer's input by what that made of it: then they are apart by the root of two such errors.
    """
    at = slice(None) if noise.at is None else noise.at
    steps = math.sqrt(2) * _relative(np.sqrt(squared_error), noise.norms[at])
    whole = np.hypot(noise.floor[at], steps)
    floor = NoiseFloor(whole, noise.norms[at], float(np.median(whole)))
    return floor if noise.at is None else floor.spread(noise.at, len(noise.norms))


def with_typical(floors: Sequence[NoiseFloor]) -> list[NoiseFloor]:
    """The floors of one tap on all inputs, each knowing what is typical of the tap."""
    typical = float(np.median(np.concatenate([floor.known for floor in floors])))
    return [replace(floor, typical=typical) for floor in floors]


def excess(squared_error: Floats, noise: NoiseFloor, positions: Any = slice(None)) -> Excess:
    """Excess of an error over the noise, both at the same `positions` of the sequence.

    squared_error: `[len(positions)]`, sums over elements of (candidate - reference)^2.

    With e_t = norm(error) / norm(oracle) and f_t the floor at position t: over the whole tap
    mean(e) / mean(f), at a position e_t / f_t. A mean and not a root mean square, because a single
    position is what the second figure is for. NaN in gives NaN out, which no limit admits.
    """
    floor = noise.floor[positions]
    error = _relative(np.sqrt(squared_error), noise.norms[positions])
    each = error / floor
    worst = int(np.argmax(np.where(np.isnan(each), np.inf, each)))
    return Excess(float(error.mean() / floor.mean()), float(each[worst]), worst)


def position_excess(squared_error: Floats, noise: NoiseFloor, positions: Any = slice(None)) -> Floats:
    """The excess of each position by itself, `[len(positions)]`: e_t / f_t of `excess`."""
    each: Floats = _relative(np.sqrt(squared_error), noise.norms[positions]) / noise.floor[positions]
    return each


def _spread(values: Floats, at: Ints, length: int) -> Floats:
    found = np.full(length, np.nan)
    found[at] = values
    return found


def _relative(error: Floats, norms: Floats) -> Floats:
    """error / norms; 0 where there is no error, infinite where all of it is error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, 0.0 * norms, error / norms)
