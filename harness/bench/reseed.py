"""Another seed's weights in a converted flatbuffer, without converting again.

In: a file, the sources of the re-authored parameters, a checkpoint folder. Out: where the file holds which parameter in
which form, and a copy with another checkpoint's values at those places.

The constants of a flatbuffer have the same shapes and places whatever their values are. Each is found by its bytes:
no schema, no names, no alignment.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.audit.constants import forms
from harness.audit.values import ExpectedValues
from harness.weights.parameters import ParameterSource

_HEAD = 256  # bytes that are looked for before the whole is compared


@dataclass(frozen=True)
class StoredWeight:
    """offset: bytes from the file's beginning. form: which one of the parameter's forms the converter stored there."""

    offset: int
    source: ParameterSource
    form: int


def positions_of(file: Path, values: np.ndarray[Any, Any]) -> list[int]:
    """Where in a flatbuffer a constant stands. Raises AssertionError where it stands nowhere."""
    found = _positions(file, values)
    if not found:
        raise AssertionError(f"{file} does not hold these {values.shape} weights")
    return found


def patch(file: Path, old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> None:
    """Overwrite a constant in place, wherever the file holds it."""
    assert old.shape == new.shape
    _write(file, positions_of(file, old), new)


def places(file: Path, sources: Sequence[ParameterSource], checkpoint: Path) -> list[StoredWeight]:
    """Every place that holds a parameter. Raises AssertionError for a parameter that none holds."""
    expected = ExpectedValues(checkpoint)
    found: dict[int, StoredWeight] = {}
    for source in sources:
        before = len(found)
        for number, form in enumerate(forms(expected.of(source), source)):
            for offset in _positions(file, form):
                # What two forms share, and what two tied parameters share, is written once.
                found.setdefault(offset, StoredWeight(offset, source, number))
        shared = source.parameter == "lm_head.weight"
        assert len(found) > before or shared, f"{file} does not hold {source.parameter}"
    return list(found.values())


def reseed(file: Path, at: Sequence[StoredWeight], checkpoint: Path) -> None:
    """Write a checkpoint's values over those that the file holds at these places."""
    expected = ExpectedValues(checkpoint)
    for place in at:
        made = list(forms(expected.of(place.source), place.source))
        _write(file, [place.offset], made[place.form])


def _positions(file: Path, values: np.ndarray[Any, Any]) -> list[int]:
    needle = np.ascontiguousarray(values, np.float32).tobytes()
    found = []
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(needle[:_HEAD])
        while at >= 0:
            if content[at : at + len(needle)] == needle:
                found.append(at)
            at = content.find(needle[:_HEAD], at + 4)
    return found


def _write(file: Path, offsets: Sequence[int], values: np.ndarray[Any, Any]) -> None:
    content = np.ascontiguousarray(values, np.float32).tobytes()
    with file.open("r+b") as stream:
        for at in offsets:
            stream.seek(at)
            stream.write(content)
