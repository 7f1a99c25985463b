"""Which tap is worst at each decode step, gathered tap by tap.

In: the excess of each position of one tap after the other. Out: `DecodeSteps` of each hop and input. It keeps a few
numbers per step, however many taps there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.compare.logits import LogitPositions
from harness.names.taps import LOGITS
from harness.record.steps import DecodeSteps
from harness.record.tap_row import TapRow

Array = np.ndarray[Any, Any]


@dataclass
class _Steps:
    """positions: of the decode steps. used: the largest share of a limit. Arrays are `[len(positions)]`."""

    positions: Array
    used: Array
    worst: Array
    limits: Array
    taps: list[str]
    logits: Array | None = None
    limit: float = math.nan


@dataclass
class StepTally:
    """decoded: input -> its first decode step's position."""

    decoded: Mapping[str, int]
    _found: dict[tuple[str, str], _Steps] = field(default_factory=dict)

    def add(self, row: TapRow, positions: Array, excess: Array) -> None:
        """Take in a tap, whose row is judged, and note in that what decode came to. excess: of each position."""
        at = positions >= self.decoded.get(row.input, math.inf)
        if not at.any():
            return
        positions, excess = positions[at], np.where(np.isnan(excess[at]), np.inf, excess[at])
        row.decode_excess = float(excess.max())
        row.decode_position = int(positions[excess.argmax()])
        limit = row.position_excess_limit
        steps = self._found.setdefault((row.hop, row.input), _nothing(positions))
        if len(steps.positions) != len(positions):
            return  # a tap that lacks positions: the others tell of the steps
        used = excess / (1.0 if math.isnan(limit) else limit)
        for i in np.flatnonzero(used > steps.used):
            steps.used[i], steps.worst[i], steps.limits[i], steps.taps[i] = used[i], excess[i], limit, row.tap
        if row.tap == LOGITS:
            steps.logits, steps.limit = excess, limit

    def result(self, logits: Mapping[str, Iterable[LogitPositions]]) -> list[DecodeSteps]:
        """Of inputs with more than one step. logits: by hop, of each input."""
        kl = {(hop, one.input): one for hop, each in logits.items() for one in each}
        return [
            DecodeSteps(
                hop=hop,
                input=item,
                positions=steps.positions.tolist(),
                logits=[] if steps.logits is None else _finite(steps.logits),
                limit=None if math.isnan(steps.limit) else steps.limit,
                worst=_finite(steps.worst),
                limits=_finite(steps.limits),
                taps=steps.taps,
                kl=_kl(kl.get((hop, item)), steps.positions),
            )
            for (hop, item), steps in self._found.items()
            if len(steps.positions) > 1
        ]


def _nothing(positions: Array) -> _Steps:
    size = len(positions)
    return _Steps(positions, np.full(size, -1.0), np.full(size, np.nan), np.full(size, np.nan), [""] * size)


def _finite(values: Array) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _kl(of_input: LogitPositions | None, positions: Array) -> list[float | None]:
    if of_input is None:
        return []
    known = dict(zip(of_input.positions.tolist(), _finite(of_input.stats.kl), strict=True))
    return [known.get(position) for position in positions.tolist()]
