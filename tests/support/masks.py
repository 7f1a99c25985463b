"""Masks as the converter stores them."""

from __future__ import annotations

from typing import Any

import numpy as np


def causal(size: int, window: int | None = None, hides: float = float(-np.finfo(np.float32).max)) -> Any:
    """Float32 `[size, 1, 1, size]`: 0 where a row sees a position."""
    row, position = np.arange(size)[:, None], np.arange(size)[None, :]
    seen = (position <= row) & (True if window is None else position > row - window)
    return np.where(seen, np.float32(0), np.float32(hides)).astype(np.float32)[:, None, None, :]
