"""Several runs in the terminal. In: what came of each model. Out: a table and where everything is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from harness.plain import one_line
from harness.record.record import Record
from harness.render.console import cells, line, new_table, verdict_cell, wrapped
from harness.render.html import REPORT_FILE
from harness.render.index import INDEX_FILE
from harness.render.numbers import percent, worst_excess

if TYPE_CHECKING:
    from rich.console import Console

    from harness.commands.batch import ModelOutcome


_COLUMNS = (
    ("model", False),
    ("verdict", False),
    ("hop to", False),
    ("s", True),
    ("worst", False),
    ("cover", True),
    ("first failing tap", False),
)
_WIDTHS = (10, 7, 14, 5, 9, 6, 20)  # what a row of usual length needs; with a space between, no more than 80


def print_outcomes(outcomes: Sequence[ModelOutcome], out: Path, further: int, console: Console) -> None:
    """One row a model, then the reports' paths, each on a line of its own, and the index.

    further: registered models that were left out, because another of the same file was run.
    """
    table = new_table("models (excess = error over the noise floor of float32, of its limit)", _COLUMNS)
    table.padding = (0, 0, 0, 0)
    for column, width in zip(table.columns, _WIDTHS, strict=True):
        column.min_width = width
    table.columns[0].max_width = _WIDTHS[0] + 2  # a path folds
    for outcome in outcomes:
        seconds, record = f"{outcome.seconds:.1f}", outcome.record
        if record is None:
            table.add_row(*cells(one_line(outcome.model), ("not run", "bold red"), "", seconds, "", "", ""))
            continue
        rows = [*_hop_rows(record), *_other_rows(record)] or [("", "nothing compared", "", "")]
        for row, name in zip_longest(rows, _names(record)):
            first = row is rows[0]
            verdict = verdict_cell(record.verdict) if first else ""
            hop, *figures = row or [""] * 4
            table.add_row(*cells(name or "", verdict, hop, seconds if first else "", *figures))
    console.print(table)
    line(console, "")
    for outcome in outcomes:
        if outcome.record is None:
            wrapped(console, f"{outcome.model} was not run: {outcome.error}", indent=0, style="red")
    for outcome in outcomes:
        if outcome.folder is not None:
            line(console, f"report  {outcome.folder / REPORT_FILE}")
    line(console, f"index   {out / INDEX_FILE}")
    if further:
        line(console, f"{further} more models in the same files were not run: 'edge-parity list' names them")
    line(console, _totals(outcomes))


def _names(record: Record) -> list[str]:
    """What stands in the first column, a line each: the model and its variant."""
    variant = [record.variant] if record.variant != "default" else []
    return [one_line(record.model), *variant]


def _hop_rows(record: Record) -> Iterator[tuple[str, str, str, str]]:
    for hop in record.hops:
        why = "" if hop.verdict == "pass" else "coverage" if hop.taps_compared else "not compared"
        yield hop.to, worst_excess(hop.worst), percent(hop.coverage), hop.first_failing_tap or why


def _other_rows(record: Record) -> Iterator[tuple[str, str, str, str]]:
    """What else fails a run than its hops, and what of it is known."""
    for stage in record.stages:
        if stage.status in ("crashed", "timeout"):
            yield stage.name, stage.status, "", ""
    errors = sum(finding.severity == "error" for finding in record.findings)
    if errors:
        yield "findings", f"{errors} {'error' if errors == 1 else 'errors'}", "", ""
    for known in record.known_defects:
        yield "known defect", known.state, "", known.id


def _totals(outcomes: Sequence[ModelOutcome]) -> str:
    """`15 pass, 1 fail, 1 not run, 149.0 s`."""
    words = ["not run" if outcome.record is None else outcome.record.verdict for outcome in outcomes]
    counts = [f"{words.count(word)} {word}" for word in ("pass", "fail", "not run") if word in words]
    return ", ".join([*counts, f"{sum(outcome.seconds for outcome in outcomes):.1f} s"])
