"""Whole columns say what each row says: the share of a limit, and which row of a tap is worst."""

from __future__ import annotations

import math
import random

from record_factory import KINDS, make_run

from harness.judge.shares import FIGURES, share, shares
from harness.record.tap_row import TapRow, rows_in, taps_frame
from harness.render.worst import worst_per_tap

VALUES = (math.nan, math.inf, 0.0, 0.3, 1.0, 3.9, 4.0, 5.0, 1e9)
LIMITS = (math.nan, math.nan, 0.0, 4.0, 16.0)
RANK = {"fail": 0, "missing": 1, "pass": 2}


def drawn(draw: random.Random, number: int) -> TapRow:
    """A row with any figures: undefined ones, infinite ones, limits of 0 and none."""
    row = TapRow(model="m", input=f"i{number % 7}", hop="hf->reauthored", tap=f"tap{number % 11}", block=-1, order=0)
    row.verdict = draw.choice(("pass", "fail", "fail", "missing"))
    for figure in FIGURES:
        setattr(row, figure, draw.choice(VALUES))
        setattr(row, f"{figure}_limit", draw.choice(LIMITS))
    row.noise_floor, row.noise_floor_limit = draw.choice(VALUES), 0.001
    row.broken = draw.choice(("", "noise_floor", "excess", "excess, noise_floor"))
    row.max_abs_err = draw.choice((math.nan, 0.5))
    row.nan_count, row.inf_count = draw.choice((None, 0, 3)), draw.choice((None, 0, 2))
    row.order = number % 11
    return row


def shown(value: float | None) -> str:
    return "none" if value is None or math.isnan(value) else f"{value:.12g}"


def test_a_column_of_shares_is_the_share_of_each_row() -> None:
    draw = random.Random(5)
    rows = [drawn(draw, number) for number in range(3000)]
    each = [shown(share(row)) for row in rows]
    assert [shown(value) for value in shares(taps_frame(rows)).tolist()] == each
    assert len(set(each)) > 20


def test_a_table_of_an_older_version_has_shares_too() -> None:
    row = TapRow(model="m", input="i", hop="hf->reauthored", tap="t", block=-1, order=0, verdict="pass", excess=2.0)
    frame = taps_frame([row])[["verdict", "excess", "max_abs_err", "nan_count"]]
    assert shares(frame).tolist() == [2.0]


def test_the_worst_row_of_a_tap_is_the_first_of_the_worst() -> None:
    draw = random.Random(7)
    frames = [taps_frame([drawn(draw, number) for number in range(2000)]), *(make_run(kind)[1] for kind in KINDS)]
    for frame in frames:
        rows = sorted(rows_in(frame[frame["hop"] == "hf->reauthored"]), key=lambda row: row.order)
        wanted: dict[str, TapRow] = {}
        for row in rows:
            other = wanted.get(row.tap)
            if other is None or badness(row) > badness(other):
                wanted[row.tap] = row
        found = worst_per_tap(frame, "hf->reauthored")
        assert list(found) == list(wanted)
        assert [(row.input, row.verdict) for row in found.values()] == [(r.input, r.verdict) for r in wanted.values()]


def badness(row: TapRow) -> tuple[int, float]:
    used = share(row)
    return -RANK[row.verdict], -math.inf if used is None else used
