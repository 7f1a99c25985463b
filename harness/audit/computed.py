"""Constants of a flatbuffer that code made and no checkpoint holds: masks, rotary frequencies, ALiBi biases, numbers.

In: a constant's values, and what the re-authored model makes of positions. Out: whether it is one of those. Whether a
mask is right is for `masks.py` to say. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.audit.masks import HIDES, SURELY_HIDES

Array = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


def is_computed(values: Array, tables: Sequence[Sequence[float]]) -> bool:
    """Single numbers, zeros, positions, what hides and shows (see `masks.py`), rotary frequencies, ALiBi biases.

    tables: frequencies in radians per position, and the bias of each head per position.
    """
    flat = values.reshape(-1)
    if np.array_equal(flat, np.arange(flat.size)):  # positions
        return True
    if flat.size <= 1 or ((seen := _seen(flat)) is not None and (bool(seen.all()) or flat.min() <= HIDES)):
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


def _seen(values: Array) -> Flags | None:
    """Where a mask is zero; None for what has other numbers than zero and one that hides, and so is not a mask."""
    seen = values == 0
    hidden = values[~seen]
    one = (
        hidden.size == 0 or bool(np.all(hidden <= SURELY_HIDES)) or bool(hidden[0] < 0 and np.all(hidden == hidden[0]))
    )
    return np.asarray(seen) if one else None
