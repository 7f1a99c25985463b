"""Which files may be run again when a run folder names them. Run folders come from anybody: what they name is run only
where a person ran it here, as it is now, or names it again.

In: a file. Out: whether it may be run; a mark in the user's cache where a person has run it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness.errors import UsageError
from harness.spec.find import MODELS_FOLDER, find_spec
from harness.spec.model import SpecRef
from harness.store.cache import Cache, key_of, sha256_of
from harness.system.reading import check_file
from harness.system.stamps import stamp_of

_KIND = "ran-here"


def mark_run(cache: Cache, *files: Path) -> None:
    """Note that a person has run these files."""
    for file in files:
        if not _of_our_own(file):
            cache.build(_KIND, _key(file), partial(_write, str(file.resolve())))


def check_trusted(file: Path, what: str, remedy: str) -> None:
    """Raises UsageError for a file that is none of ours, and that nobody has run here as it is now.

    what: it is in the run, e.g. "the declaration". remedy: how to name it oneself.
    """
    check_file(file, "run the model again")
    cache = Cache.standard()
    made_here = file.resolve().is_relative_to(cache.root.resolve())
    if not (_of_our_own(file) or made_here or cache.entry(_KIND, _key(file)) is not None):
        raise UsageError(
            f"{file}, {what} that this run folder names, was not run on this machine as it is now, and nothing is run "
            f"because a run folder says so; {remedy}"
        )


def spec_to_run(named: str | None, file: str, variable: str) -> SpecRef:
    """The declaration to run for a run folder: the one that the user names, else the folder's, if it may be run."""
    if named is not None:
        return find_spec(named)
    check_trusted(Path(file), "the declaration", "look at it and name it yourself: --spec FILE")
    return SpecRef.of(file, variable)


def _of_our_own(file: Path) -> bool:
    return file.resolve().is_relative_to(MODELS_FOLDER)


def _key(file: Path) -> str:
    """By place and content; what is too large to be read at once (a flatbuffer) by its version."""
    content = sha256_of(file) if file.suffix == ".py" else stamp_of(file.stat())
    return key_of({"file": str(file.resolve()), "content": content})


def _write(text: str, folder: Path) -> None:
    (folder / "file.txt").write_text(text, encoding="utf-8")
