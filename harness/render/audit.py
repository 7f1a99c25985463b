"""Audits in the terminal. In: what came of each model. Out: a line a model, and a table of its findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.audit.report import Audit
from harness.plain import one_line
from harness.record.record import Finding
from harness.render.console import STYLES, cells, line, new_table, wrapped

if TYPE_CHECKING:
    from rich.console import Console

_COLUMNS = (("", False), ("field", False), ("blocks", False), ("published", False), ("re-authored", False))


def print_audits(audits: Sequence[Audit], console: Console) -> None:
    """A line with the verdict of each model; below it both values of what differs, and everything else in words."""
    for audit in audits:
        verdict = "not audited" if audit.error else audit.verdict
        shown = verdict if verdict == "pass" else verdict.upper()
        line(console, f"{shown}  {one_line(audit.model)}  {_summary(audit)}", style=STYLES.get(verdict, "bold red"))
        differing = [finding for finding in audit.findings if finding.published and finding.reauthored]
        if differing:
            table = new_table("", _COLUMNS)
            table.title = None
            for finding in differing:
                table.add_row(*cells(_severity(finding), finding.field, _blocks(finding), *_values(finding)))
            console.print(table)
        for finding in audit.findings:
            if finding not in differing:
                wrapped(console, f"{finding.severity}: {finding.what}", style=_severity(finding)[1])
        if differing and any(finding.modules for finding in differing):
            for modules in {(f.field.split(".")[0], *f.modules.values()): f.modules for f in differing}.values():
                if modules:
                    wrapped(console, " / ".join(modules.values()), style="dim")


def _summary(audit: Audit) -> str:
    if audit.error:
        return audit.error
    errors = sum(finding.severity == "error" for finding in audit.findings)
    warnings = len(audit.findings) - errors
    parts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    return f"{', '.join(parts) or 'every field agrees'}, against {audit.against}"


def _severity(finding: Finding) -> tuple[str, str]:
    return finding.severity, "bold red" if finding.severity == "error" else "yellow"


def _blocks(finding: Finding) -> str:
    from harness.audit.differences import block_text

    return block_text(tuple(finding.blocks)).partition(" ")[2] if finding.blocks else ""


def _values(finding: Finding) -> tuple[str, str]:
    return finding.published, finding.reauthored
