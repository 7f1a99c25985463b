"""A benchmark in the terminal. In: a `Report`. Out: a row a fault, and the shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.bench.result import EVERY_OTHER, Report, Result
from harness.bench.summary import false_alarms, summary
from harness.render.console import cells, line, new_table

if TYPE_CHECKING:
    from rich.console import Console

_COLUMNS = (
    ("fault", False),
    ("model", False),
    ("found", False),
    ("first fault", False),
    ("cause", False),
    ("audits", False),
    ("s", True),
)


def print_report(report: Report, console: Console) -> None:
    table = new_table("faults", _COLUMNS)
    for result in report.results:
        where = result.tap or ("below noise" if result.below_noise else "-")
        where += f" in {result.only_in}" if result.only_in else ""
        cause = result.diagnosis[0] if result.diagnosis else "-"
        audits = ", ".join(result.audits) or "-"
        table.add_row(*cells(result.id, result.model, _found(result), where, cause, audits, f"{result.seconds:.1f}"))
    console.print(table)
    whole = summary(report.results)
    alarms, others = false_alarms(report)
    line(console, f"detected                       {whole.detected}")
    line(console, f"right hop, tap                 {whole.hop}, {whole.tap}")
    line(console, f"right cause first, named       {whole.cause_first}, {whole.cause_named}")
    line(console, f"below noise, audited           {whole.below_noise}")
    for name, share in whole.others.items():
        if share.of or others[name].of:
            line(console, f"{EVERY_OTHER[name]:<30} {share}, and complains of {others[name]} clean models")
    line(console, f"false alarms                   {alarms}")
    for error in report.errors:
        line(console, error, style="red")


def _found(result: Result) -> tuple[str, str]:
    if not result.detected:
        return ("MISSED", "bold red")
    if result.seen and not result.tap_right:
        return ("elsewhere", "yellow")
    return ("yes", "green")
