"""A part of a large comparison, on which causes are looked for quickly.

In: both sides and an output that differs. Out: the same of some rows of the inputs, where both sides give on these
alone what they gave there before; None where they do not, as where every row depends on all others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from harness.compare.rows import measure
from harness.testing.judging import Reach
from harness.testing.outputs import Array, Output
from harness.testing.running import Sides, candidate_outputs, exact_outputs, mapped

_LARGE = 1 << 15  # numbers of an output, up to which all of it is searched
_KEPT = 1 << 12  # numbers of a part, about
_ROWS = 32  # that a part has at least
_SAME = 3.0  # in units of the noise floor, as a faithful computation has it


@dataclass(frozen=True)
class Part:
    """An output that differs, and what both sides are run on to make it."""

    reach: Reach
    sides: Sides

    def numbers(self) -> int:
        """How many numbers a run touches: of inputs, weights and the output."""
        modules = [one for one in (self.sides.candidate, self.sides.reference) if isinstance(one, torch.nn.Module)]
        weights = sum(weight.numel() for module in modules for weight in module.parameters())
        given = sum(values.size for values in self.sides.given_arrays().values())
        return int(self.reach.exact.values.size) + given + weights


def smaller(reach: Reach, name: str, sides: Sides) -> Part | None:
    """The worst rows of an output with some others, or its first rows; tried along its longest axes."""
    if reach.exact.values.size <= _LARGE:
        return None
    for axis, kept in _choices(reach):
        with contextlib.suppress(Exception):  # a function may take only what it was given
            part = _part(reach, name, sides, axis, kept)
            if part is not None:
                return part
    return None


def _choices(reach: Reach) -> Iterator[tuple[int, Array]]:
    want = reach.exact.values
    gap = np.square(reach.candidate.values - want)
    for axis in sorted(range(want.ndim), key=lambda axis: -want.shape[axis])[:2]:
        extent = want.shape[axis]
        count = max(_ROWS, _KEPT * extent // want.size)
        if extent < 2 * count:
            continue
        along = gap.sum(tuple(other for other in range(want.ndim) if other != axis))
        worst = np.argsort(-along, kind="stable")[: count // 4]
        yield axis, np.unique(np.concatenate([worst, np.linspace(0, extent - 1, count - len(worst)).astype(np.int64)]))
        yield axis, np.arange(count)


def _part(reach: Reach, name: str, sides: Sides, axis: int, kept: Array) -> Part | None:
    extent = reach.exact.values.shape[axis]

    def cut(value: Any) -> Any:
        taken = isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim > axis and value.shape[axis] == extent
        if not taken:
            return value
        return value.take(kept, axis) if isinstance(value, np.ndarray) else value.index_select(axis, torch.tensor(kept))

    def rows(output: Output) -> Output:
        return replace(output, values=output.values.take(kept, axis))

    call = replace(sides.call, inputs=mapped(sides.call.inputs, cut), keywords=mapped(dict(sides.call.keywords), cut))
    made = candidate_outputs(sides.candidate, call, sides.numpy)
    exact = exact_outputs(sides.reference, call)
    samples = [rows(sample) for sample in reach.samples]
    part = Reach(made[name], exact[name], samples, reach.dtype)
    before = part.before()
    same = all(
        _is_same(new.values, rows(old).values, samples, rows(reach.exact).values, reach.dtype)
        for new, old in ((made[name], reach.candidate), (exact[name], reach.exact))
    )
    if not same or before is None or before.passes():
        return None
    return Part(part, replace(sides, call=call, made=made))


def _is_same(given: Array, want: Array, samples: list[Output], exact: Array, dtype: str) -> bool:
    found = (
        measure(given, exact, [sample.values for sample in samples], dtype, want) if given.shape == want.shape else None
    )
    return found is not None and found.passes(_SAME)
