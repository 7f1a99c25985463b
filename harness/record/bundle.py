"""What is in a bundle, as `edge-parity inspect` says it, and how it stands the check against a model.

In: nothing. Out: the classes. Sizes are bytes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.record.contents import FileContents
from harness.record.findings import Finding
from harness.record.part import Part

CheckResult = Literal["ok", "wrong", "warning", "not checked"]


class SectionContents(Part):
    """A section of a bundle. name: of the entry of a `.task`, else empty. model_type: which of several models it is."""

    number: int
    kind: str
    name: str = ""
    model_type: str = ""
    begin: int
    size: int
    sha256: str
    about: dict[str, str] = Field(default_factory=dict)


class MetadataContents(Part):
    """What the bundle says of its model. most_tokens: positions of the context; 0 where it does not say.

    affixes: role -> what stands before and after a message. others: fields that are not looked at, unknown: numbers of
    those that this version does not know.
    """

    start: str = ""
    stop: list[str] = Field(default_factory=list)
    most_tokens: int = 0
    template: str = ""
    affixes: dict[str, list[str]] = Field(default_factory=dict)
    model_type: str = ""
    others: list[str] = Field(default_factory=list)
    unknown: list[int] = Field(default_factory=list)


class BundleContents(Part):
    """What is in a bundle.

    form: `.litertlm` or `.task`. version: of the format. system: what the header says of the whole file. rest: bytes of
    no section. tokenizer: what it is, in words. flatbuffers: as of a `.tflite` file, in the order of their sections.
    """

    file: str
    form: str
    size: int
    version: str = ""
    system: dict[str, str] = Field(default_factory=dict)
    sections: list[SectionContents]
    rest: int
    metadata: MetadataContents | None = None
    tokenizer: str = ""
    flatbuffers: list[FileContents] = Field(default_factory=list)


class Checked(Part):
    """One question that a check asks of a bundle. found: the answer, in words."""

    what: str
    result: CheckResult
    found: str


class BundleReport(Part):
    """A bundle against the model that it is to be. lost: why the engine did not end well; empty where it did."""

    bundle: BundleContents
    model: str
    engine: str = ""
    checks: list[Checked] = Field(default_factory=list)
    findings: list[Finding] = Field(default_factory=list)
    lost: str = ""

    @property
    def exit_code(self) -> int:
        """0: nothing is wrong. 1: something is. 3: the engine crashed or took too long."""
        if self.lost:
            return 3
        bad = any(finding.severity == "error" for finding in self.findings)
        return int(bad or any(check.result in ("wrong", "not checked") for check in self.checks))
