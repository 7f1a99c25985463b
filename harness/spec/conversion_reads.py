"""What the spec's own code read while its model was converted, kept beside the flatbuffer.

In: a conversion at work. Out: `Reads`, and what of it is another by now. A file that `forward` opens as it is traced
becomes constants in the flatbuffer, but nobody knows of it before, so it cannot be part of the key.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from harness.spec.code import OWN, edited_between
from harness.spec.rests import given_variables, is_in, names_digest, source_of
from harness.spec.witness import Seen, listen_to_native_code
from harness.store.cache import Cache, sha256_of
from harness.store.digests import sha256_once

READS = "reads.json"
_SMALL = 1_000_000  # bytes; larger files are read once per version
_GONE = "not there"
_MEANWHILE = "edited while it was converted"


class Reads(BaseModel):
    """spec: the file that was converted. files: path -> SHA-256, or that it was not there. names: folder -> digest of
    the names in it. environment: variables. unseen: what was done whose answer nobody can check.
    """

    spec: str
    files: dict[str, str] = Field(default_factory=dict)
    names: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str | None] = Field(default_factory=dict)
    unseen: list[str] = Field(default_factory=list)

    def changed(self, spec: Path, cache: Cache) -> str | None:
        """The first thing that is not as it was, as words for a person; None where all is.

        A spec elsewhere with the same text reads other files by the same code.
        """
        if self.unseen:
            return f"the spec did what cannot be checked again ({self.unseen[0]})"
        if not (self.files or self.names or self.environment):
            return None
        if self.spec != str(spec.resolve()):
            return f"it was made of {self.spec}, which read further files"
        for path, digest in self.files.items():
            if _digest(path, cache) != digest:
                return f"{path}, which the model read while it was converted, is another now"
        for folder, digest in self.names.items():
            if names_digest(folder) != digest:
                return f"the files in {folder}, which the model looked at while it was converted, are others now"
        for name, value in self.environment.items():
            if os.environ.get(name) != value:
                return f"the variable {name}, which the model read while it was converted, is another now"
        return None


class Reader:
    """Notes what the conversion of a spec reads."""

    def __init__(self, spec: Path, cache: Cache) -> None:
        self.spec, self._cache, self._seen = spec, cache, Seen(of_a_spec=True)
        self._since = time.time_ns()
        listen_to_native_code()  # a spec that is loaded next may keep such a function under its own name
        self._known: set[str] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what the spec's own code does in here. The spec is loaded: what it is made of is in the key already."""
        self._known = self._known or {
            file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))
        }
        listen_to_native_code()  # and what it has imported
        with self._seen.watching():
            yield

    def write(self, folder: Path) -> None:
        """Keep it as a file in a folder."""
        seen = self._seen
        files = self._further([*seen.files, *map(source_of, seen.modules)])
        found = Reads(
            spec=str(self.spec.resolve()),
            files={path: _GONE + _leads(path) for path in self._further(seen.absent)}
            | {path: self._digest(path) for path in files},
            names={path: names_digest(path) for path in self._further(seen.listed)},
            environment=dict(sorted(given_variables(seen.own).items())),
            unseen=sorted(seen.unseen),
        )
        (folder / READS).write_text(found.model_dump_json(indent=1), encoding="utf-8")

    def _further(self, paths: Iterable[str]) -> list[str]:
        root = str(self._cache.root.resolve())
        return sorted({path for path in paths if path not in self._known and not is_in(path, root) and not _ours(path)})

    def _digest(self, path: str) -> str:
        edited = os.path.exists(path) and edited_between(Path(path), self._since)
        return _MEANWHILE if edited else _digest(path, self._cache)


def changed_since(entry: Path, spec: Path, cache: Cache) -> str | None:
    """Why a conversion in the cache is not one of the files as they are now, in words; None where it is."""
    try:
        known = Reads.model_validate_json((entry / READS).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return "nobody noted what it read"
    return known.changed(spec, cache)


def _digest(path: str, cache: Cache) -> str:
    """What a path holds, where it leads if it is a link, and who may do what with it."""
    file = Path(path)
    with suppress(OSError):
        if not file.exists():
            return _GONE + _leads(path)
        facts = file.stat()
        rights = f" {stat.S_IMODE(facts.st_mode):o}{_leads(path)}"
        if file.is_file():
            return (sha256_once(file, cache) if facts.st_size > _SMALL else sha256_of(file)) + rights
        return f"a folder{rights}"
    return "cannot be read"


def _leads(path: str) -> str:
    return f" -> {os.readlink(path)}" if os.path.islink(path) else ""


def _ours(path: str) -> bool:
    return path == str(OWN) or path.startswith(f"{OWN}{os.sep}")
