"""What a preparation rests on, so that a later run can tell in a tenth of a second whether it still holds.

In: what was seen while it was made. Out: `Rests`, versions of files and the like, and what of it is another by now.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.util import source_from_cache
from pathlib import Path

from pydantic import BaseModel, Field

from harness.spec.code import SpecCode, converting_files, is_standard
from harness.spec.route import every_route
from harness.spec.witness import Seen
from harness.system.stamps import stamp_of
from harness.system.started import IMPORTED_AT, STARTED_WITH
from harness.system.temporary import PREFIX

RESTS = "rests"  # in what a process is asked for, and in what it answers
# Packages that read no file without being heard, beside the routes' own. Whatever else a spec's own code imports may.
_HEARD = frozenset({"harness", "models", "torch", "transformers", "numpy"})
# Modules of Python whose answers nobody can check again.
_CHANGING = frozenset(
    {"ctypes", "datetime", "http", "multiprocessing", "random", "secrets", "socket", "sqlite3", "ssl", "subprocess",
     "time", "urllib", "uuid"}
)  # fmt: skip
MARGIN = 2_000_000_000  # ns; the clocks of some file systems tick every second or two


class Rests(BaseModel):
    """files: path -> its stamp, None for one that was not there. folders: that were there. names: folder -> digest of
    what is in it; modules: the same of what can be imported from it. directory: where it ran, if that matters.
    """

    files: dict[str, list[int] | None] = Field(default_factory=dict)
    folders: list[str] = Field(default_factory=list)
    names: dict[str, str] = Field(default_factory=dict)
    modules: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str | None] = Field(default_factory=dict)
    directory: str | None = None

    def changed(self) -> str | None:
        """The first thing that is not as it was; None where all is."""
        if self.directory is not None and self.directory != _directory():
            return "the working directory"
        for name, value in self.environment.items():
            if os.environ.get(name) != value:
                return f"the variable {name}"
        for path, stamp in self.files.items():
            if _stamp(path) != stamp:
                return path
        for listing, digest in ((self.names, names_digest), (self.modules, _module_names)):
            for path, known in listing.items():
                if digest(path) != known:
                    return path
        return next((path for path in self.folders if not os.path.isdir(path)), None)


def rests_of(seen: Seen, code: SpecCode, since_ns: int, cache_root: Path) -> Rests | None:
    """What something rests on that was made since a time; None where that cannot be told.

    So it is where the spec's own code does what leaves no trace, or where a file was written meanwhile.
    """
    quiet = _HEARD | {route.packages.own for route in every_route()}
    if seen.unseen or not code.packages <= quiet or code.standard & _CHANGING:
        return None
    root = str(cache_root.resolve())
    own = [str(path) for path in code.files.values()]
    read = [path for path in (*own, *seen.files, *map(source_of, seen.modules)) if not is_in(path, root)]
    loaded = [path for path in loaded_files() if path not in own]
    found = Rests(
        files={path: _stamp(path) for path in (*read, *loaded, *converting_files())},
        folders=[path for path in seen.folders if not is_in(path, root)],
        names={path: names_digest(path) for path in seen.listed if not is_in(path, root)},
        modules={path: _module_names(path) for path in seen.importing},
        environment=given_variables(seen.environment),
        directory=_directory() if seen.relative else None,
    )
    # What a module was loaded of may be older than what lies there now.
    if _written_since(read, since_ns - MARGIN, found) or _written_since(loaded, IMPORTED_AT, found):
        return None
    found.files |= {path: None for path in seen.absent if not is_in(path, root)}
    return found


def told(rests: Rests | None) -> dict[str, object] | None:
    """As it crosses the border of a process."""
    return rests.model_dump() if rests is not None else None


def given_variables(read: Mapping[str, str | None]) -> dict[str, str | None]:
    """Variables as they came from outside; the folder for temporary files is another in each run."""
    return {
        name: value
        for name, value in read.items()
        if STARTED_WITH.get(name) == value and name not in ("TMPDIR", "TEMP", "TMP")
    }


def _written_since(paths: Iterable[str], since_ns: int, found: Rests) -> bool:
    stamps = [found.files[path] for path in paths]
    return any(stamp is not None and since_ns <= stamp[-1] <= time.time_ns() for stamp in stamps)


def loaded_files() -> list[str]:
    """Files of all modules here but the standard library's."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    absolute = [file for file in files if isinstance(file, str) and os.path.isabs(file) and not is_standard(file)]
    return [file for file in absolute if os.path.exists(file)]


def source_of(path: str) -> str:
    """The source of a compiled module, whose own file may be written at any time."""
    source = source_from_cache(path) if path.endswith(".pyc") and "__pycache__" in path else path
    return source if os.path.exists(source) else path


def is_in(path: str, root: str) -> bool:
    """Whether a path lies in the cache or among a run's temporary files."""
    return path == root or path.startswith(f"{root}{os.sep}") or f"{os.sep}{PREFIX}" in path


def _stamp(path: str) -> list[int] | None:
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def names_digest(folder: str) -> str:
    """Differs where a folder holds other names."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _module_names(folder: str) -> str:
    """Of what can be imported: a log or a run folder that is new in the working directory changes nothing."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith((".py", ".so")) or _is_package(entry))
    except OSError:
        return ""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _is_package(entry: os.DirEntry[str]) -> bool:
    return entry.name.isidentifier() and os.path.exists(os.path.join(entry.path, "__init__.py"))
