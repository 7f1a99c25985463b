"""Weights that a float16 file cannot hold. In: a checkpoint's tensors, one by one. Out: a finding that warns."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.compare.value_range import FLOAT16_OVERFLOWS, short
from harness.names.codes import FindingCode
from harness.record.record import Finding


class BeyondHalf:
    """Takes tensors as they are read, and keeps of each its largest number that rounds to infinity in float16.

    NaN and infinity are not among them: a checkpoint that holds these is wrong in float32 already.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, tuple[int, ...], int]] = {}  # name -> number, place, how many

    def __call__(self, name: str, values: np.ndarray[Any, Any]) -> None:
        if not values.size or (values.max() < FLOAT16_OVERFLOWS and values.min() > -FLOAT16_OVERFLOWS):
            return
        size = np.where(np.isfinite(values), np.abs(values), 0.0)
        count = int((size >= FLOAT16_OVERFLOWS).sum())
        if count:
            at = np.unravel_index(int(size.argmax()), size.shape)
            self._found[name] = float(values[at]), tuple(int(i) for i in at), count

    def findings(self) -> list[Finding]:
        """One warning that names the largest of all, or none."""
        if not self._found:
            return []
        name, (value, at, _) = max(self._found.items(), key=lambda item: abs(item[1][0]))
        count = sum(count for *_, count in self._found.values())
        tensors = f"{len(self._found)} tensor{'' if len(self._found) == 1 else 's'}"
        more = f"; {count} numbers of {tensors} are that large" if count > 1 else ""
        place = ",".join(map(str, at))
        what = f"{name}[{place}] is {short(value)}: a float16 file would hold infinity there{more}"
        return [
            Finding(kind="weights", code=FindingCode.WEIGHT_BEYOND_FLOAT16, severity="warning", what=what, key=name)
        ]
