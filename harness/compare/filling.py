"""Rows of taps filled with what was judged, or with why nothing was.

In: a row, and a judgement or a reason. Out: nothing; the row has changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from harness.judge.rules import Judgement
from harness.names.coverage import Absence, checked
from harness.record.tap_row import TapRow


def fill_judgement(row: TapRow, judgement: Judgement) -> None:
    row.verdict, row.rule = judgement.verdict, judgement.rule
    row.broken, row.why = judgement.codes, judgement.why
    row.noise_floor_limit = judgement.limits.get("noise_floor", math.nan)
    row.excess_limit = judgement.limits.get("excess", math.nan)
    row.position_excess_limit = judgement.limits.get("position_excess", math.nan)


def fill_missing(row: TapRow, stage: str, why_missing: Callable[[str, str], Absence]) -> None:
    fill_absent(row, checked(why_missing(stage, row.tap), stage, row.tap))


def fill_absent(row: TapRow, absent: Absence) -> None:
    row.verdict, row.rule, row.broken = "missing", "", ""
    row.why, row.absence = absent.why, absent.reason
