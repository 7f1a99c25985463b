"""What is in a bundle, and how it stands the check, in the terminal.

In: `BundleContents` or a `BundleReport`. Out: lines and tables on a rich console.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.plain import clean, one_line
from harness.record.bundle import BundleContents, BundleReport, MetadataContents
from harness.render.console import cells, line, new_table, wrapped
from harness.render.contents import megabytes

if TYPE_CHECKING:
    from rich.console import Console

_LONGEST_TEMPLATE = 12  # lines
_LONGEST_LIST = 8
_STYLES = {"ok": "green", "wrong": "bold red", "warning": "yellow", "not checked": "yellow"}


def print_bundle(found: BundleContents, console: Console) -> None:
    """Sections, metadata, tokenizer; the flatbuffers are printed as any."""
    line(console, f"{one_line(found.file)}  {megabytes(found.size)}", style="bold")
    version = f", version {found.version} of the format" if found.version else ""
    line(console, f"  a {found.form} bundle{version}")
    for key, value in found.system.items():
        line(console, f"  {key}: {value}")
    table = new_table(
        "Sections", (("no.", True), ("what", False), ("size", True), ("begins at", True), ("SHA-256", False))
    )
    for section in found.sections:
        what = " ".join(part for part in (section.kind, section.name or section.model_type) if part)
        table.add_row(
            *cells(str(section.number), what, megabytes(section.size), f"{section.begin:,}", section.sha256[:16])
        )
    console.print(table)
    line(console, f"  {megabytes(found.rest)} are in no section: header and padding")
    if found.tokenizer:
        line(console, f"tokenizer: {found.tokenizer}")
    if found.metadata is not None:
        _print_metadata(found.metadata, console)


def print_made(notes: Sequence[str], judged: str, judge: str, check: str, console: Console) -> None:
    """What is not as the checkpoint has it, and what to do next. judged: the run that did, or empty."""
    for note in notes:
        wrapped(console, f"note: {note}")
    line(console, f"judged  {judged}" if judged else f"not judged yet: {judge}", style="" if judged else "yellow")
    line(console, f"check   {check}")


def _print_metadata(said: MetadataContents, console: Console) -> None:
    line(console, f"start token: {said.start or 'none'}")
    more = f" and {len(said.stop) - _LONGEST_LIST} more" if len(said.stop) > _LONGEST_LIST else ""
    wrapped(console, f"stop tokens: {'; '.join(said.stop[:_LONGEST_LIST]) or 'none'}{more}", indent=4)
    line(console, f"context: {f'{said.most_tokens} tokens' if said.most_tokens else 'not named'}")
    if said.model_type:
        line(console, f"model type: {said.model_type}")
    for role, pair in said.affixes.items():
        line(console, f"around a message of {role}: {pair[0]!r} and {pair[1]!r}")
    if said.template:
        rows = clean(said.template).splitlines()
        line(console, f"chat template, {len(said.template):,} characters")
        for row in rows[:_LONGEST_TEMPLATE]:
            line(console, f"    {row}")
        if len(rows) > _LONGEST_TEMPLATE:
            line(console, f"    ... {len(rows) - _LONGEST_TEMPLATE} more lines; --json has all")
    else:
        line(console, "chat template: none")
    if said.others:
        line(console, f"  says also: {', '.join(said.others)}")
    if said.unknown:
        line(console, f"  fields that are not known: {', '.join(map(str, said.unknown))}", style="yellow")


def print_bundle_report(report: BundleReport, console: Console) -> None:
    """The verdict, a line per question, and what is wrong."""
    verdict = {0: "PASS", 1: "FAIL", 3: "LOST"}[report.exit_code]
    line(
        console,
        f"{verdict}  {one_line(report.bundle.file)} against {report.model}",
        style="bold green" if verdict == "PASS" else "bold red",
    )
    if report.engine:
        line(console, f"  engine: {report.engine}")
    table = new_table("Checks", (("check", False), ("result", False), ("found", False)))
    for check in report.checks:
        table.add_row(*cells(check.what, check.result, check.found))
    console.print(table)
    if report.lost:
        wrapped(console, f"the engine {report.lost}", style="bold red")
    for finding in report.findings:
        style = "bold red" if finding.severity == "error" else "yellow"
        wrapped(console, f"{finding.severity} {finding.code}: {finding.what}", style=style)
