"""Find a run folder by what a person calls it.

In: a path, `latest` or `MODEL@latest`. Out: the folder. Run ids begin with their time, so names sort by age.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import secrets
from pathlib import Path

from harness.errors import UsageError
from harness.record.record import RECORD_FILE

_LATEST = "latest"
_TIME = "%Y%m%d-%H%M%S"
_ID = re.compile(r"(\d{8}-\d{6})-[0-9a-f]{4}")


def next_run_id(out: Path, now: datetime.datetime) -> str:
    """The id of a run that begins now: its time, and four digits for those that begin in the same second.

    A clock that was set back would put it before runs that are older, and `latest` would mean one of them: so it is at
    least a second later than the newest in `out`.
    """
    times = [found[1] for path in out.glob("*/[!.]*") if (found := _ID.fullmatch(path.name))]
    stamp = now.strftime(_TIME)
    newest = max(times, default="")
    if newest > stamp:
        with contextlib.suppress(ValueError, OverflowError):  # no time at all, whoever made that folder
            stamp = (datetime.datetime.strptime(newest, _TIME) + datetime.timedelta(seconds=1)).strftime(_TIME)
    return f"{stamp}-{secrets.token_hex(2)}"


def find_run(run: str, out: Path) -> Path:
    """The folder of a run. Raises UsageError when there is none."""
    model, at, word = run.rpartition("@")
    if word == _LATEST and (at or run == _LATEST):
        found = all_runs(out, model or None)
        if not found:
            whose = f"of {model} " if model else ""
            raise UsageError(
                f"no run {whose}in {out}; 'edge-parity run {model or 'MODEL'}' makes one, --out finds others"
            )
        return found[-1]
    folder = Path(run)
    if os.path.lexists(folder / RECORD_FILE):  # what is wrong with it is said where it is read
        return folder
    if folder.name == RECORD_FILE and folder.is_file():
        return folder.parent
    raise UsageError(f"no run in {folder}: give a run folder (it holds a {RECORD_FILE}), 'latest' or 'MODEL@latest'")


def all_runs(out: Path, model: str | None = None) -> list[Path]:
    """Finished runs under `out`, oldest first."""
    return sorted(
        (path.parent for path in out.glob(f"{model or '*'}/[!.]*/{RECORD_FILE}")), key=lambda folder: folder.name
    )
