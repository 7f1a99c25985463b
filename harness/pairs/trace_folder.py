"""A folder of traces as the command line names it. In: `FOLDER` or `NAME=FOLDER`. Out: `TraceFolder`.

Needs no package, so that what is not such a folder is refused at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.plain import brief

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TraceFolder:
    """A folder of traces, and what its stage is called; None for what its manifest says."""

    folder: Path
    stage: str | None = None

    @classmethod
    def parse(cls, text: str) -> TraceFolder:
        """`FOLDER`, or `NAME=FOLDER`; a folder that is there may have a `=` in its name."""
        name, sign, folder = text.partition("=")
        named = bool(sign) and not Path(text).exists()
        if named and not folder:
            raise UsageError(f"{brief(text)} names no folder; give NAME=FOLDER")
        return cls(Path(folder), name) if named else cls(Path(text))

    def check(self) -> None:
        """Raises UsageError for a folder without a manifest."""
        if not (self.folder / _MANIFEST).is_file():
            raise UsageError(f"{self.folder} has no {_MANIFEST}; docs/traces.md has the format")
