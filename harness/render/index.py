"""The list of all runs. In: the records under a folder of runs. Out: its `index.html`, one file without a network.

Rendered from the records alone, newest run first. A record that cannot be read has a line that says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from harness.errors import UsageError
from harness.record import Record, read_record, write_text
from harness.render.html import REPORT_FILE
from harness.render.page import render_page
from harness.runs import all_runs

INDEX_FILE = "index.html"


@dataclass(frozen=True)
class Row:
    """One run. link: its report, relative to the index. record: None with what is wrong in `problem`."""

    model: str
    run_id: str
    link: str
    record: Record | None
    problem: str = ""


def write_index(out: Path) -> Path:
    """Write `index.html` over all runs in `out`, whole or not at all, and return its path. Raises OSError."""
    path = out / INDEX_FILE
    with _alone(out):  # else a run that ends meanwhile could write the longer list before this one
        rows = [_row(folder) for folder in reversed(all_runs(out))]
        page = render_page("index.html.j2", rows=rows)
        write_text(path, page)
    return path


def _row(folder: Path) -> Row:
    record, problem = None, ""
    try:
        record = read_record(folder)
    except UsageError as error:
        problem = str(error)
    # By the folders' names and not by what the record says: they are what a link has to follow.
    model, run_id = folder.parent.name, folder.name
    return Row(model, run_id, "/".join((quote(model), quote(run_id), REPORT_FILE)), record, problem)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One writer at a time; the system frees the lock with the process, however it ends."""
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
