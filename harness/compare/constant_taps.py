"""Taps that compare nothing: zero, or one and the same number, in the oracle on every input.

In: the rows of a comparison, with the range of the oracle's numbers. Out: the rows, such taps missing. Pure.

Whatever a model does to zeros, it gives zeros: a run with all weights at zero agrees everywhere and shows nothing. A
tap that is alive on one input is compared there, and is left alone on the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from harness.names.taps import split_tap
from harness.record.tap_row import TapRow

_SAME = 2.0**-24  # of the largest number: float32 holds no difference that is smaller
# The probabilities of an input of one token are 1.0 by definition; a mask that lets more through shows there.
_BY_DEFINITION = frozenset({"attn.probs"})


def without_constant_taps(rows: Sequence[TapRow]) -> list[TapRow]:
    """The rows; those of a tap that is constant wherever a hop compared it, and agrees, are missing with the reason."""
    alive = {(row.hop, row.tap) for row in rows if _is_alive(row)}
    return [_missing(row) if row.verdict == "pass" and (row.hop, row.tap) not in alive else row for row in rows]


def _is_alive(row: TapRow) -> bool:
    return row.verdict == "fail" or (row.verdict == "pass" and not constant_words(row))


def _missing(row: TapRow) -> TapRow:
    why = f"it is {constant_words(row)} in the oracle, on every input, so nothing is compared"
    return replace(row, verdict="missing", rule="", why=why)


def constant_words(row: TapRow) -> str:
    """What all numbers of a tap are in the oracle, in words; empty where they differ, or where it is not known."""
    least, most = row.value_min, row.value_max
    if split_tap(row.tap)[1] in _BY_DEFINITION or not least <= most:
        return ""
    if least == most == 0:
        return "0 throughout"
    if _elements(row) > 1 and most - least <= _SAME * max(abs(least), abs(most)):
        return f"the same number throughout, {most:.4g},"
    return ""


def _elements(row: TapRow) -> int:
    return math.prod(int(size) for size in str(row.shape).split("x"))
