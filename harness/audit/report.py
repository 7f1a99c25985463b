"""What an audit is asked for and what it says. In: nothing. Out: two records that cross process borders as JSON.

Imports no framework, so that a refusal of bad input does not wait for one.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from harness.record.record import Finding, Verdict


class AuditRequest(BaseModel):
    """Which models to audit: (spec file, variable) each. checkpoint: a folder with a config.json; absolute paths."""

    specs: list[tuple[str, str]]
    checkpoint: str | None = None


class Audits(BaseModel):
    """What a process that audits gives back."""

    audits: list[Audit]


class Audit(BaseModel):
    """What came of one model. file, variable: its spec. against: the config it was compared with.
    error: why it could not be audited."""

    model: str
    file: str = ""
    variable: str = ""
    against: str = ""
    findings: list[Finding] = Field(default_factory=list)
    error: str = ""

    @property
    def verdict(self) -> Verdict:
        """Fails on an error finding; warnings only inform."""
        return "fail" if self.error or any(f.severity == "error" for f in self.findings) else "pass"

    @property
    def exit_code(self) -> int:
        return 2 if self.error else int(self.verdict == "fail")
