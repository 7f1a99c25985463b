"""Every file that a run folder gets besides its record, written from that record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.record import Record

if TYPE_CHECKING:
    import pandas as pd


def render_all(folder: Path, record: Record, frame: pd.DataFrame) -> list[Path]:
    """Write report, JUnit and Model Explorer files; returns their paths."""
    from harness.render.explorer import write_explorer
    from harness.render.html import write_report
    from harness.render.junit import write_junit

    return [write_report(folder, record, frame), write_junit(folder, record), *write_explorer(folder, record, frame)]
