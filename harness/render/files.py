"""Every file that a run folder gets beside its record, written from that record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.record import Record, write_text

if TYPE_CHECKING:
    import pandas as pd


def render_all(folder: Path, record: Record, frame: pd.DataFrame) -> list[Path]:
    """Write report, summary, JUnit and Model Explorer files; returns their paths."""
    from harness.render.explorer import write_explorer
    from harness.render.html import final_folder, write_report
    from harness.render.junit import write_junit
    from harness.render.markdown import write_summary

    pages = [write_report(folder, record, frame), write_summary(folder, final_folder(folder, record), record)]
    pages += _generation(folder, record)
    return [*pages, write_junit(folder, record), *write_explorer(folder, record, frame)]


def _generation(folder: Path, record: Record) -> list[Path]:
    """The page of what the stages generated, where that was asked for."""
    if record.generation is None:
        return []
    from harness.render.generation import PAGE_FILE, page

    write_text(folder / PAGE_FILE, page(record.model, record.run_id, record.generation))
    return [folder / PAGE_FILE]
