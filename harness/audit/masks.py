"""Attention masks among the constants of a flatbuffer, and what is wrong with one, row by row.

In: a constant's values and the windows of the model. Out: what is wrong in words, empty for a right mask and for what
is not a mask. Pure.

What a mask is follows from most of it and not from all of it: one damaged number does not make it something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
HIDES = -104.0  # the exponential of less is zero in float32, so softmax leaves nothing of it
SURELY_HIDES = -1e9  # beside whatever other number of the mask; no score of a model comes near
_MASKED = -np.finfo(np.float32).max  # what the converter makes of minus infinity
_EXACT = 8  # rows that hide exactly what a mask hides: no other constant does so in as many
_HALF = 0.5


def wrong_mask(values: Array, windows: Sequence[int], *, prefix: bool = False) -> str:
    """What is wrong with a mask of rows x positions, row by row; empty for a right one, and for what is not a mask.

    values: 0 where row i, a token at position i, sees a position, and minus infinity where it does not. A right row
    sees all positions up to its own, or as many of them as one of `windows`. A finite number in place of minus infinity
    hides as well if it is low enough. prefix: whether a mask of fewer rows than positions may let each of its rows see
    all of them, as the rows of an image do.
    """
    rows = np.squeeze(values)
    if rows.ndim < 2:
        return ""
    own = _hiding_number(rows)
    mask = _Mask(rows, rows == 0, (rows <= SURELY_HIDES) | ((rows == own) & (rows < 0)), own)
    if not mask.is_one(windows):
        return ""
    if prefix and mask.rows < mask.positions and not mask.wrong(mask.prefix()).any():
        return ""
    return mask.says(windows)


def wrong_flags(values: Array, windows: Sequence[int]) -> str:
    """The same of a mask of booleans, true where a row sees a position or where it does not.

    values: 0 and 1. Only what has many right rows is one: booleans say less than numbers that hide.
    """
    rows = np.squeeze(values)
    if rows.ndim < 2:
        return ""
    hidden = np.float32(_MASKED)
    shows = [_Mask(rows, flags, ~flags, hidden) for flags in (rows != 0, rows == 0)]
    nearest = max(shows, key=lambda mask: mask.exact_rows(windows))
    return nearest.says(windows) if nearest.has_exact_rows(windows) else ""


@dataclass(frozen=True)
class _Mask:
    """numbers: `[..., rows, positions]`. seen, hidden: where it shows and hides. own: the number that it hides with."""

    numbers: Array
    seen: Flags
    hidden: Flags
    own: np.float32

    @property
    def rows(self) -> int:
        return int(self.numbers.shape[-2])

    @property
    def positions(self) -> int:
        return int(self.numbers.shape[-1])

    def is_one(self, windows: Sequence[int]) -> bool:
        """Whether this was made as a mask. What holds 0 and a number that hides is one in whatever order."""
        if not self.hidden.any():
            return bool(self.seen.all()) and self.rows == self.positions
        either = self.seen | self.hidden
        if self.own <= HIDES and bool(either.all()):
            return True
        if either.mean() < _HALF and either.all(axis=-1).sum() < _EXACT:
            return False  # a weight, as nearly all that is asked about
        return self.has_exact_rows(windows) or any(self.agrees(right) for right in self.kinds(windows))

    def kinds(self, windows: Sequence[int]) -> Iterator[Flags]:
        """What a right mask shows, `[rows, positions]`: causal, and with each window."""
        row, position = np.arange(self.rows)[:, None], np.arange(self.positions)[None, :]
        causal = position <= row
        yield causal
        for window in windows:
            yield causal & (position > row - window)

    def prefix(self) -> Flags:
        return np.broadcast_to(np.arange(self.positions) < self.rows, (self.rows, self.positions))

    def wrong(self, right: Flags) -> Flags:
        """Which rows are not as one kind of mask has them, `[..., rows]`."""
        return np.asarray(((self.seen != right) | (self.hidden == right)).any(axis=-1))

    def exact_rows(self, windows: Sequence[int]) -> int:
        """How many rows that hide something are right, of the kind of mask that most of them are."""
        hiding = slice(0, max(0, self.positions - 1))  # a later row of a causal mask sees everything
        return max(int((~self.wrong(right)[..., hiding]).sum()) for right in self.kinds(windows))

    def has_exact_rows(self, windows: Sequence[int]) -> bool:
        return self.positions > _EXACT and self.exact_rows(windows) >= _EXACT

    def agrees(self, right: Flags) -> bool:
        """Whether it shows most of what it should, and hides most of what it should."""
        if self.rows != self.positions or self.positions <= _EXACT:
            return False
        return bool(self.seen[..., right].mean() >= _HALF and self.hidden[..., ~right].mean() >= _HALF)

    def says(self, windows: Sequence[int]) -> str:
        nearest = min((self.wrong(right) for right in self.kinds(windows)), key=lambda flags: int(flags.sum()))
        if self.hidden.any() and self.own > HIDES:
            return f"it hides with {self.own:g}, which softmax makes zero only from {HIDES:g} down"
        if not nearest.any():
            return ""
        row = int(np.argmax(nearest.reshape(-1, self.rows).any(axis=0)))
        limits = "".join(f", and no window of {window}" for window in windows)
        are = "is" if nearest.sum() == 1 else "are"
        return f"{int(nearest.sum())} of {nearest.size} rows {are} not causal{limits}: row {row} {self._of_row(row)}"

    def _of_row(self, row: int) -> str:
        """What a row does: with numbers that neither show nor hide, or by what it shows."""
        seen, hidden = (part.reshape(-1, self.rows, self.positions)[:, row] for part in (self.seen, self.hidden))
        neither = np.argwhere(~(seen | hidden))
        if len(neither):
            copy, position = (int(index) for index in neither[0])
            number = self.numbers.reshape(-1, self.rows, self.positions)[copy, row, position]
            return (
                f"holds {number:g} at position {position}, which neither shows, as 0 does, nor hides, "
                f"as {self.own:g} does here"
            )
        shown = np.flatnonzero(seen.any(axis=0))
        where = f"positions {shown[0]} to {shown[-1]}, {len(shown)} of them" if len(shown) else "no position"
        return f"sees {where}"


def _hiding_number(rows: Array) -> np.float32:
    """What most rows hold at the last position, which every mask hides from all rows before it, where that is not 0."""
    last = rows[..., -1].reshape(-1)
    last = last[last < 0]
    if not last.size:
        return np.float32(_MASKED)
    found, counts = np.unique(last, return_counts=True)
    return np.float32(found[np.argmax(counts)])
