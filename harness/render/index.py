"""The list of all runs. In: the records under a folder of runs. Out: its `index.html`, one file without a network.

Rendered from the records alone, newest run first, with the trend of each model's worst excess. A record that cannot be
read has a line that says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from harness.errors import UsageError
from harness.record.record import Record, read_record, write_text
from harness.record.runs import all_runs
from harness.render.html import REPORT_FILE
from harness.render.numbers import share_of, worst_excess, worst_of
from harness.render.page import render_page

INDEX_FILE = "index.html"


TREND_RUNS = 30  # of one model in the drawing; the table has all
_WIDTH, _HEIGHT, _EDGE = 170, 40, 5
_DECADES = (-2.0, 3.0)  # shares of the limit that the drawing tells apart


@dataclass(frozen=True)
class Row:
    """One run. link: its report, relative to the index. record: None with what is wrong in `problem`."""

    model: str
    run_id: str
    link: str
    record: Record | None
    problem: str = ""


@dataclass(frozen=True)
class Point:
    """One run in the drawing of a trend. x, y: in pixels from the top left; y is None where nothing was compared."""

    row: Row
    x: float
    y: float | None
    said: str


@dataclass(frozen=True)
class Trend:
    """Runs of one model, variant and source of weights, oldest first. limit: height of a share of 1, in pixels."""

    model: str
    variant: str
    source: str
    rows: tuple[Row, ...]
    points: tuple[Point, ...]
    width: int = _WIDTH
    height: int = _HEIGHT

    @property
    def limit(self) -> float:
        return _height(1.0)


@dataclass(frozen=True)
class OtherPage:
    """What another command than `run` wrote. link: its page, relative to the index."""

    model: str
    what: str
    name: str
    link: str


# Folder and page of a command -> what it is.
_OTHERS = {("generate-*", "generation.html"): "generated text", ("recipe-*", "recipe.html"): "search for a recipe"}


def other_pages(out: Path) -> list[OtherPage]:
    """Newest first."""
    found = [
        OtherPage(page.parts[-3], what, page.parts[-2], "/".join(quote(os.fsencode(part)) for part in page.parts[-3:]))
        for (folder, name), what in _OTHERS.items()
        for page in out.glob(f"[!.]*/{folder}/{name}")
    ]
    return sorted(found, key=lambda page: page.name.partition("-")[2], reverse=True)


def write_index(out: Path) -> Path:
    """Write `index.html` over all runs in `out` and the pages of other commands, whole or not at all, and return its
    path. Raises OSError."""
    path = out / INDEX_FILE
    with _alone(out):  # else a run that ends meanwhile could write the longer list before this one
        rows = [_row(folder) for folder in reversed(all_runs(out))]
        write_text(path, render_page("index.html.j2", rows=rows, trends=trends(rows), others=other_pages(out)))
    return path


def trends(rows: Sequence[Row]) -> list[Trend]:
    """One for each model, variant and source of weights, the one that ran last first. rows: newest first."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.record is not None:
            groups.setdefault((row.model, row.record.variant, _weights(row.record)), []).append(row)
    return [Trend(*key, tuple(mine[::-1]), _points(mine[TREND_RUNS - 1 :: -1])) for key, mine in groups.items()]


def _weights(record: Record) -> str:
    """Where the weights came from, and how many layers of them ran where that was asked for."""
    layers = record.options.get("layers")
    return (record.source.kind if record.source else "-") + (f", {layers} layers" if layers else "")


def _points(rows: Sequence[Row]) -> tuple[Point, ...]:
    step = (_WIDTH - 2 * _EDGE) / max(1, len(rows) - 1)
    points = []
    for i, row in enumerate(rows):
        found = worst_of(row.record) if row.record else None
        said = "nothing compared" if found is None else f"worst excess {worst_excess(found[1])} at {found[1].tap}"
        height = None if found is None else _height(share_of(found[1]))
        points.append(Point(row, _EDGE + i * step, height, f"{row.run_id}: {said}"))
    return tuple(points)


def _height(share: float) -> float:
    """A share of the limit on a logarithmic scale; NaN and infinity stand at the top, zero at the bottom."""
    low, high = _DECADES
    decade = high if math.isinf(share) or math.isnan(share) else math.log10(share) if share > 0 else low
    return round(_EDGE + (_HEIGHT - 2 * _EDGE) * (high - min(high, max(low, decade))) / (high - low), 1)


def _row(folder: Path) -> Row:
    record, problem = None, ""
    try:
        record = read_record(folder)
    except UsageError as error:
        problem = str(error)
    # By the folders' names and not by what the record says: they are what a link has to follow.
    model, run_id = folder.parent.name, folder.name
    return Row(
        model, run_id, "/".join((quote(os.fsencode(model)), quote(os.fsencode(run_id)), REPORT_FILE)), record, problem
    )


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One writer at a time; the system frees the lock with the process, however it ends."""
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
