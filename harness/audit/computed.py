"""Constants of a flatbuffer that code made and no checkpoint holds: masks, rotary frequencies, ALiBi biases, numbers.

In: a constant's values, what the re-authored model makes of positions, and its windows. Out: whether it is one of
those, and what is wrong with a mask. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
_MASKED = -np.finfo(np.float32).max  # what the converter makes of minus infinity
_HIDES = -104.0  # the exponential of less is zero in float32, so softmax leaves nothing of it


def is_computed(values: Array, tables: Sequence[Sequence[float]]) -> bool:
    """Single numbers, zeros, what hides and shows (see `wrong_mask`), rotary frequencies, ALiBi biases.

    tables: frequencies in radians per position, and the bias of each head per position.
    """
    flat = values.reshape(-1)
    if flat.size <= 1 or ((seen := _seen(flat)) is not None and (bool(seen.all()) or flat.min() <= _HIDES)):
        return True
    if np.squeeze(values).ndim == 2:  # heads x positions
        heads, positions = np.squeeze(values).shape
        return any(
            len(known) == heads and np.allclose(np.squeeze(values), np.outer(known, np.arange(positions)), rtol=1e-5)
            for known in tables
        )
    with np.errstate(divide="ignore"):
        return any(
            len(known) == flat.size and (np.allclose(flat, known, rtol=1e-5) or np.allclose(1 / flat, known, rtol=1e-5))
            for known in tables
        )


def wrong_mask(values: Array, windows: Sequence[int]) -> str:
    """What is wrong with a mask of rows x positions, row by row; empty for a right one, and for what is not a mask.

    values: 0 where row i, a token at position i, sees a position, and minus infinity where it does not. A right row
    sees all positions up to its own, or as many of them as one of `windows`. A finite number in place of minus infinity
    hides as well if it is low enough.
    """
    rows = np.squeeze(values)
    seen = _seen(rows)
    if rows.ndim < 2 or seen is None:
        return ""
    if seen.all() and rows.shape[-1] != rows.shape[-2]:
        return ""  # zeros that are not a mask
    wrong = [_wrong_rows(seen, window) for window in (None, *windows)]
    nearest = min(wrong, key=lambda flags: int(flags.sum()))
    if not seen.all() and rows.min() > _HIDES:
        weak = f"it hides with {rows.min():g}, which softmax makes zero only from {_HIDES:g} down"
        return "" if nearest.any() else weak  # two numbers in another order are something else
    if not nearest.any():
        return ""
    row = int(np.argmax(nearest.reshape(-1, nearest.shape[-1]).any(axis=0)))
    shown = np.flatnonzero(seen.reshape(-1, *seen.shape[-2:])[:, row].any(axis=0))
    sees = f"positions {shown[0]} to {shown[-1]}, {len(shown)} of them" if len(shown) else "no position"
    limits = "".join(f", and no window of {window}" for window in windows)
    return f"{int(nearest.sum())} of {nearest.size} rows are not causal{limits}: row {row} sees {sees}"


def _seen(values: Array) -> Flags | None:
    """Where a mask is zero; None for what has other numbers than zero and one that hides, and so is not a mask."""
    seen = values == 0
    hidden = values[~seen]
    one = hidden.size == 0 or bool(np.all(hidden <= _MASKED)) or bool(hidden[0] < 0 and np.all(hidden == hidden[0]))
    return np.asarray(seen) if one else None


def _wrong_rows(seen: Flags, window: int | None) -> Flags:
    """Which rows of `[..., rows, positions]` do not see what they should."""
    row, position = np.arange(seen.shape[-2])[:, None], np.arange(seen.shape[-1])[None, :]
    right = position <= row
    if window is not None:
        right &= position > row - window
    return np.asarray((seen != right).any(axis=-1))
