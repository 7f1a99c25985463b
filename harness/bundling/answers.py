"""An answer to one question about a bundle, with what is wrong.

In: words. Out: `Answer`, which becomes a row of a `BundleReport` and its findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.names.codes import FindingCode
from harness.record.bundle import BundleReport, Checked
from harness.record.findings import Finding, Severity


@dataclass
class Answer:
    """what: the question. found: the answer, where nothing is wrong. The rest is added as it is found."""

    what: str
    found: str = ""
    findings: list[Finding] = field(default_factory=list)
    checked: bool = True

    def wrong(self, code: FindingCode, sentence: str, severity: Severity = "error") -> None:
        """sentence: what is wrong; what to do about it."""
        self.findings.append(Finding(kind="runtime", code=code, severity=severity, what=sentence))

    def not_checked(self, why: str) -> None:
        self.checked, self.found = False, why

    def row(self) -> Checked:
        """As the report has it."""
        if any(finding.severity == "error" for finding in self.findings):
            return Checked(what=self.what, result="wrong", found=_short(self.findings))
        if not self.checked:
            return Checked(what=self.what, result="not checked", found=self.found)
        return Checked(what=self.what, result="warning" if self.findings else "ok", found=self.found)


def add(report: BundleReport, answers: Sequence[Answer]) -> None:
    """Add the answers to a report, in their order."""
    for answer in answers:
        report.checks.append(answer.row())
        report.findings += answer.findings


def _short(findings: Sequence[Finding]) -> str:
    """The first error without its remedy; how many more there are."""
    errors = [finding.what.split("; ")[0] for finding in findings if finding.severity == "error"]
    return errors[0] + (f", and {len(errors) - 1} more" if len(errors) > 1 else "")
