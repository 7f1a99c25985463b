"""A diff of two runs as a page. In: a `RunDiff`. Out: one HTML file that needs no network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.record.record import write_text
from harness.render.numbers import figure_text, number, percent, worst_excess
from harness.render.page import render_page

if TYPE_CHECKING:
    from harness.compare.runs import HopChange, RunDiff, TapChange

Pair = tuple[str, str]
_WORSE = {"fail": 2, "missing": 1, "pass": 0}


def write_diff(path: Path, comparison: RunDiff) -> Path:
    """Write the page and return its path. Raises UsageError where it cannot be written."""
    groups = (
        ("Newly failing", comparison.newly_failing),
        ("Newly missing", comparison.newly_missing),
        ("Newly passing", comparison.newly_passing),
        ("Share of the limit changed more than twofold", _same_verdict(comparison)),
    )
    page = render_page(
        "diff.html.j2",
        comparison=comparison,
        hops=[(change, _hop_cells(change)) for change in comparison.hops],
        groups=[(title, [(change, _figures(change)) for change in changes]) for title, changes in groups],
        likelihood=[None if side is None else number(side) for side in comparison.likelihood],
        seconds=[(stage, number(a), number(b)) for stage, (a, b) in comparison.stage_seconds.items()],
        direction=direction,
    )
    try:
        write_text(path, page)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(f"--html {path} cannot be written ({why}); give another file") from None
    return path


def direction(verdict: tuple[str | None, str | None]) -> str:
    """`worse`, `better` or nothing."""
    before, after = (_WORSE.get(side or "missing", 1) for side in verdict)
    return "worse" if after > before else "better" if after < before else ""


def _same_verdict(comparison: RunDiff) -> tuple[TapChange, ...]:
    return tuple(change for change in comparison.changed if change.verdict[0] == change.verdict[1])


def _figures(change: TapChange) -> Pair:
    before, after = ("-" if figure is None else figure_text(figure) for figure in change.figures)
    return before, after


def _hop_cells(change: HopChange) -> list[Pair]:
    """Worst excess, coverage and the figures of the logits, before and after."""
    logits = [
        tuple("-" if side is None else number(getattr(side, name)) for side in change.logits)
        for name in ("max_abs_err", "kl_max", "flips_above_noise")
    ]
    worst = (worst_excess(change.worst[0]), worst_excess(change.worst[1]))
    return [worst, (percent(change.coverage[0]), percent(change.coverage[1])), *((a, b) for a, b in logits)]
