"""Every file that a run folder gets beside its record, written from that record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.record import Record

if TYPE_CHECKING:
    import pandas as pd


def render_all(folder: Path, record: Record, frame: pd.DataFrame) -> list[Path]:
    """Write report, summary, JUnit and Model Explorer files; returns their paths."""
    from harness.render.explorer import write_explorer
    from harness.render.html import final_folder, write_report
    from harness.render.junit import write_junit
    from harness.render.markdown import write_summary

    pages = [write_report(folder, record, frame), write_summary(folder, final_folder(folder, record), record)]
    return [*pages, write_junit(folder, record), *write_explorer(folder, record, frame)]
