"""Which run has judged a flatbuffer.

In: the digest of the file, a model, where runs are. Out: the latest run that ran it, and as the file of which recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.names.stages import split
from harness.record.record import Record, read_record
from harness.record.runs import all_runs


@dataclass(frozen=True)
class Judged:
    """folder: of the run. recipe: of the file, `none` for float32."""

    folder: Path
    record: Record
    recipe: str


def judged_run(sha256: str, model: str, out: Path) -> Judged | None:
    """The latest run of a model that ran the very file; None where there is none. A damaged record counts for none."""
    for folder in reversed(all_runs(out, model)):
        try:
            record = read_record(folder)
        except UsageError:
            continue
        for stage in record.stages:
            if stage.status == "ok" and stage.facts.get("sha256") == sha256:
                return Judged(folder, record, split(stage.name)[1])
    return None
