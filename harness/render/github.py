"""Annotations of a run on GitHub. In: the record. Out: workflow commands, a line each, which Actions shows at a file.

Format: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.plain import clean
from harness.record.record import Record
from harness.render.sentences import excess_words
from harness.render.words import causes_of, fault_of, model_words, verdict_words, where

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_MOST = 10  # of a kind; Actions drops what is beyond


def workflow_commands(record: Record, file: str) -> list[str]:
    """What fails as errors, what is worth knowing as warnings; a notice when all is well.

    file: the model's declaration, relative to the repository.
    """
    title = f"{record.model}: parity"
    errors = [_command("error", file, title, said) for said in _errors(record)]
    warnings = [
        _command("warning", file, f"{record.model}: {finding.kind}", finding.what)
        for finding in record.findings
        if finding.severity == "warning"
    ]
    if record.verdict == "pass":
        return [_command("notice", file, title, verdict_words(record)), *warnings[:_MOST]]
    return [*errors[:_MOST], *warnings[:_MOST]]


def not_run(model: str, file: str, why: str) -> str:
    """The annotation of a model that could not be run."""
    return _command("error", file, f"{model}: parity", f"not run: {why}")


def shown_path(file: Path, root: Path) -> str:
    """A path as Actions takes it: relative to the repository where it lies in it."""
    try:
        return file.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return file.name


def append_summary(path: Path, text: str) -> None:
    """Add a run's summary to that of the job."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text + "\n")


def _errors(record: Record) -> Iterator[str]:
    for stage in record.stages:
        if stage.status in ("crashed", "timeout"):
            yield f"stage {stage.name} {stage.status}: {stage.detail or 'see run.log'}"
    for hop in record.hops:
        fault = fault_of(record, hop)
        if hop.verdict == "fail" and fault is None:
            yield f"{hop.name}: {hop.reasons[0]}"
        elif fault is not None:
            figure = excess_words(fault, short=True)
            said = f"{model_words(hop.to)}: {hop.name} first at {fault.tap} ({where(fault)}), {figure}"
            owner = f"; owner: {fault.owner}" if fault.owner else ""
            causes = causes_of(record, fault)
            cause = f"; {causes[0].hypothesis}: {causes[0].detail}" if causes else ""
            yield said + owner + cause
    for finding in record.findings:
        if finding.severity == "error":
            yield f"{finding.kind}: {finding.what}"


def _command(kind: str, file: str, title: str, message: str) -> str:
    return f"::{kind} file={_property(file)},title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    # A line of its own would be a command of its own; two colons at its start are what makes one.
    return clean(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
