"""What a quantised file's linear layers compute by definition, in PyTorch: its own weights, and inputs on their grid.

In: the input of a layer and what the file holds of its weight. Out: its output in float32. Whole numbers add up
exactly, in float32 as well while their sum stays below 2^24; they are added in stretches that short.

The runtimes quantise the input of a layer with narrow weights row by row, and do it in two ways, measured to 4e-8 on
rows of every kind (with a sign, without, zeros, one large number):
- XNNPACK: 256 steps from the least to the largest number of the row, 0 included.
- LiteRT's own kernels: 255 steps around 0, up to the largest absolute number; but for weights in blocks 256 steps as
  XNNPACK, with halves away from 0, where XNNPACK has them to the even number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch

from harness.flatbuffer.quantised import Held

_EXACT = 1 << 24  # the whole numbers that float32 holds
Rows = tuple[torch.Tensor, torch.Tensor]  # whole numbers, less the zero point, and the step of each row `[..., 1]`


class RowGrid(Enum):
    """How a runtime quantises the rows of a layer's input."""

    NONE = "none"  # it does not
    FROM_LEAST = "from least to largest"
    FROM_LEAST_HALVES_AWAY = "from least to largest, halves away from zero"
    AROUND_ZERO = "around zero"


def rows_from_least(x: torch.Tensor) -> Rows:
    """On 256 steps from the least number of a row to the largest, 0 included. x: float32 `[..., width]`."""
    least = x.amin(-1, keepdim=True).clamp(max=0)
    most = x.amax(-1, keepdim=True).clamp(min=0)
    per_unit = torch.where(least == most, torch.ones_like(least), 255 / (most - least))
    low, high = -128 + least * per_unit, 127 + most * per_unit
    zero = torch.where(low + high > 0, -128 - least * per_unit, 127 - most * per_unit).clamp(-128, 127).round()
    whole = ((x * per_unit).round() + zero).clamp(-128, 127) - zero
    return whole, 1 / per_unit


def rows_from_least_halves_away(x: torch.Tensor) -> Rows:
    """The same steps, as LiteRT's own kernels find them: in float64, with halves away from 0. x: as above."""
    wide = x.to(torch.float64)
    least, most = wide.amin(-1, keepdim=True).clamp(max=0), wide.amax(-1, keepdim=True).clamp(min=0)
    step = torch.where(least == most, torch.ones_like(least), (most - least) / 255)
    by_least, by_most = -128 - least / step, 127 - most / step
    nearer = 128 - least / step < 127 + most / step
    zero = _half_away(torch.where(nearer, by_least, by_most).clamp(-128, 127))
    own = step.to(torch.float32)
    whole = (_half_away((x * (1 / own)).to(torch.float64)) + zero).clamp(-128, 127) - zero
    return whole.to(torch.float32), own


def _half_away(x: torch.Tensor) -> torch.Tensor:
    """To the nearest whole number. x: float64, in which a half is added exactly."""
    return x.sign() * (x.abs() + 0.5).floor()


def rows_around_zero(x: torch.Tensor) -> Rows:
    """On 255 steps around 0, up to the largest absolute number of a row; halves go away from 0. x: as above."""
    most = x.abs().amax(-1, keepdim=True)
    per_unit = torch.where(most > 0, 127 / most, torch.zeros_like(most))
    whole = _half_away((x * per_unit).to(torch.float64)).clamp(-127, 127)
    return whole.to(torch.float32), most / 127


_ROWS: dict[RowGrid, Callable[[torch.Tensor], Rows]] = {
    RowGrid.FROM_LEAST: rows_from_least,
    RowGrid.FROM_LEAST_HALVES_AWAY: rows_from_least_halves_away,
    RowGrid.AROUND_ZERO: rows_around_zero,
}


@dataclass(frozen=True)
class LayerNumbers:
    """A weight, ready to be multiplied. matrix: float32 `[out, in]`: whole numbers where there is a scale.

    scale: float64 `[out]`, of each row; None for a matrix that holds the weight's own numbers.
    stretch: how many products of its numbers with whole ones of at most 255 add up exactly in float32.
    """

    matrix: torch.Tensor
    scale: torch.Tensor | None
    stretch: int = 0

    @classmethod
    def of(cls, held: Held) -> LayerNumbers:
        """Blocks share a scale within a row, so that their sums are not whole numbers; floats have none."""
        rows = held.scale.ndim == 2 and held.scale.shape[1] == 1 and not held.grid.block
        if not rows:
            return cls(torch.from_numpy(held.values).to(torch.float32), None)
        whole = held.whole.astype(np.float32) - held.zero.astype(np.float32)
        scale = np.broadcast_to(held.scale[:, 0], (whole.shape[0],)).copy()
        return cls(torch.from_numpy(whole), torch.from_numpy(scale), _stretch(whole))

    def values(self) -> torch.Tensor:
        """The weight itself, float64 `[out, in]`."""
        wide = self.matrix.to(torch.float64)
        return wide if self.scale is None else wide * self.scale[:, None]

    def times(self, whole: torch.Tensor) -> torch.Tensor:
        """The product with whole numbers of at most 255, in float64, without the scale."""
        if self.scale is None:
            return torch.nn.functional.linear(whole, self.matrix).to(torch.float64)
        parts = (slice(start, start + self.stretch) for start in range(0, whole.shape[-1], self.stretch))
        sums = (torch.nn.functional.linear(whole[..., part], self.matrix[:, part]) for part in parts)
        total = next(sums).to(torch.float64)
        for more in sums:
            total += more
        return total


def _stretch(whole: np.ndarray[Any, Any]) -> int:
    """How many products of a row's numbers with whole ones of at most 255 add up exactly in float32."""
    absolute = np.abs(whole)
    if 255 * absolute.sum(axis=1, dtype=np.float64).max(initial=0) < _EXACT:  # no sum of any of them is larger
        return max(1, int(whole.shape[1]))
    return max(1, int(_EXACT // (255 * max(1.0, float(absolute.max(initial=0))))))


def linear(x: torch.Tensor, numbers: LayerNumbers, bias: torch.Tensor | None, rows: RowGrid) -> torch.Tensor:
    """x: float32 `[..., in]`. Returns float32 `[..., out]`."""
    if rows is RowGrid.NONE:
        total = torch.nn.functional.linear(x, numbers.matrix).to(torch.float64)
    else:
        whole, step = _ROWS[rows](x)
        total = numbers.times(whole) * step.to(torch.float64)
    if numbers.scale is not None:
        total *= numbers.scale
    if bias is not None:
        total += bias.to(torch.float64)
    return total.to(torch.float32)
