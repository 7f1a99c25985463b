"""A content-addressed store for what is dear to make: converted weights, flatbuffers, float64 traces.

In: a kind, a key and a function that fills a folder. Out: a folder that is whole and verified, or none at all.

An entry is `<root>/<kind>/<key>/` with an `entry.json` that lists the size and SHA-256 of every file in it.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

from harness.errors import UsageError

ENTRY_FILE = "entry.json"
ENVIRONMENT_VARIABLE = "EDGE_PARITY_CACHE"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# A disk that is full or closed to us: the person can fix it, so it is not a traceback.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR})
# Native writers (safetensors, torch) wrap the system's error in an exception of their own.
_FULL_DISK_TEXT = ("no space left on device", "os error 28", "disk quota exceeded")

_log = logging.getLogger(__name__)


def key_of(content: Mapping[str, Any]) -> str:
    """A stable hexadecimal digest (40 digits) of JSON-able content, whatever the order of its keys.

    Raises TypeError for content that JSON cannot hold: a key must never rest on an object's address.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:40]


def source_of(module: str) -> Path:
    """The file of a module of this package, by which what it makes is kept: its place in the tree may change."""
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None, module
    return Path(found.origin)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Cache:
    """The store under `root`. Safe for concurrent runs: each entry has a lock file.

    say: receives one line for each thing a person should know (a damaged entry, a wait for another run);
        without it the lines go to the log.
    """

    def __init__(self, root: Path, say: Callable[[str], None] | None = None) -> None:
        self.root = root
        self._say = say if say is not None else _log.warning

    @classmethod
    def standard(cls, say: Callable[[str], None] | None = None) -> Cache:
        """The user's cache, or the folder that EDGE_PARITY_CACHE names."""
        named = os.environ.get(ENVIRONMENT_VARIABLE)
        if named:
            return cls(Path(os.path.expanduser(named)), say)
        import platformdirs

        try:
            root = Path(platformdirs.user_cache_dir("edge-parity", appauthor=False))
        except RuntimeError:  # nobody knows this user's home, as in a container with a user of its own
            root = Path()
        if not root.is_absolute():  # else a folder called ~ would be made where we stand
            raise UsageError(
                f"there is no home folder for the cache; set HOME, or {ENVIRONMENT_VARIABLE} to a folder that can be "
                "written"
            )
        return cls(root, say)

    @classmethod
    def temporary(cls, folder: Path, say: Callable[[str], None] | None = None) -> Cache:
        """A cache that lives and dies with `folder`, which the caller throws away (`--no-cache`)."""
        return cls(folder / "cache", say)

    def entry(self, kind: str, key: str) -> Path | None:
        """The verified folder of an entry, or None. A damaged entry is reported, deleted and absent."""
        folder = self._folder(kind, key)
        if not folder.is_dir():
            return None
        if damage_of(folder) is None:
            return folder
        with self._lock(kind, key):
            # Another run may have rebuilt it while this one waited.
            damage = damage_of(folder)
            if damage is None:
                return folder
            if folder.is_dir():
                self._say(f"cache entry {folder} is damaged ({damage}); it is deleted and will be made again")
                self._discard(folder)
        return None

    def build(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], None],
        verify: Callable[[Path], None] | None = None,
    ) -> Path:
        """The entry's folder; when there is none, `make` fills it. Concurrent runs make it once.

        make: receives an empty folder; whatever it raises leaves nothing behind.
        verify: called on the filled folder; raises to refuse it.
        Raises UsageError when the disk is full or closed to us.
        """
        found = self.entry(kind, key)
        if found is not None:
            return found
        with self._lock(kind, key):
            found = self._folder(kind, key)
            # The run that held the lock before us has verified what it wrote.
            if found.is_dir() and damage_of(found) is None:
                return found
            self._sweep(kind)
            return self._fill(kind, key, make, verify)

    def replace(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """The entry, made now in the place of what there is. Whoever reads that meanwhile sees all of one of them."""
        with self._lock(kind, key):
            return self._fill(kind, key, make, None)

    def sweep(self) -> None:
        """Delete what interrupted runs left, of whatever kind."""
        with suppress(OSError):
            for kind in {partial.parent.name for partial in self.root.glob("*/.*.partial")}:
                self._sweep(kind)

    def checksums(self, kind: str, key: str) -> dict[str, str]:
        """SHA-256 of each file of an entry by relative path, as stored with it."""
        listed = _listed(self._folder(kind, key))
        return {name: str(facts["sha256"]) for name, facts in listed.items()}

    def remove(self, kind: str | None = None, key: str | None = None) -> int:
        """Delete one entry, one kind or all; returns the bytes that were freed."""
        freed = 0
        for found_kind, folder in list(self._entries()):
            if kind in (None, found_kind) and key in (None, folder.name):
                with self._lock(found_kind, folder.name):
                    freed += _bytes_of(folder)
                    if folder.is_dir():  # another run may have deleted it while this one waited
                        self._discard(folder)
        return freed

    def size_report(self) -> list[tuple[str, int, int]]:
        """(kind, entries, bytes) for each kind there is, by name."""
        totals: dict[str, tuple[int, int]] = {}
        for kind, folder in self._entries():
            entries, size = totals.get(kind, (0, 0))
            totals[kind] = (entries + 1, size + _bytes_of(folder))
        return [(kind, *totals[kind]) for kind in sorted(totals)]

    def _entries(self) -> Iterator[tuple[str, Path]]:
        if not self.root.is_dir():
            return
        for kind in sorted(self.root.iterdir()):
            if kind.is_dir():
                yield from ((kind.name, folder) for folder in sorted(kind.iterdir()) if _is_entry(folder))

    def _folder(self, kind: str, key: str) -> Path:
        for name in (kind, key):
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{name}' is not a name for a cache folder")
        return self.root / kind / key

    @contextmanager
    def _lock(self, kind: str, key: str) -> Iterator[None]:
        from filelock import FileLock, Timeout

        folder = self._folder(kind, key)
        with _fixable(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.parent / f".{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self._say(f"another run is working on {kind} {key[:12]}; waiting for it")
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _fill(self, kind: str, key: str, make: Callable[[Path], None], verify: Callable[[Path], None] | None) -> Path:
        folder = self._folder(kind, key)
        partial = _partial(folder)
        try:
            with _fixable(self.root):
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                if verify is not None:
                    verify(partial)
                listed = _list(partial)
                (partial / ENTRY_FILE).write_text(json.dumps({"files": listed}, indent=1), encoding="utf-8")
                if folder.exists():
                    shutil.rmtree(folder)
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def _discard(self, folder: Path) -> None:
        """Delete under the entry's lock; renamed first, so that nobody sees half of it."""
        gone = _partial(folder)
        with _fixable(self.root):
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone)

    def _sweep(self, kind: str) -> None:
        """Delete what interrupted runs left. The system frees a dead process's lock: a free lock tells."""
        from filelock import FileLock, Timeout

        for partial in (self.root / kind).glob(".*.partial"):
            lock = FileLock(partial.parent / f"{partial.name.removesuffix('.partial')}.lock")
            try:
                with lock.acquire(timeout=0):
                    shutil.rmtree(partial, ignore_errors=True)
            except (Timeout, OSError):
                continue


def damage_of(folder: Path) -> str | None:
    """What is wrong with an entry: a missing file, a wrong size, a checksum that does not match; else None."""
    try:
        listed = _listed(folder)
        sizes = {name: (folder / name).stat().st_size for name in listed}
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{ENTRY_FILE} cannot be read"
    for name, size in sizes.items():
        if size != listed[name].get("size"):
            return f"{name} has {size} bytes instead of {listed[name].get('size')}"
    try:
        actual = _hashes(folder, list(listed))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    wrong = [name for name in listed if actual[name] != listed[name].get("sha256")]
    return f"the checksum of {wrong[0]} does not match" if wrong else None


def _is_entry(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def _partial(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.partial"


class ListedFile(TypedDict):
    """What an entry says of one of its files."""

    size: int  # bytes
    sha256: str


def _listed(folder: Path) -> dict[str, ListedFile]:
    content = json.loads((folder / ENTRY_FILE).read_text(encoding="utf-8"))
    files = content["files"]
    if not isinstance(files, dict):
        raise ValueError(f"{ENTRY_FILE} lists no files")
    return files


def _list(folder: Path) -> dict[str, ListedFile]:
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    hashes = _hashes(folder, names)
    return {name: {"size": (folder / name).stat().st_size, "sha256": hashes[name]} for name in names}


def _hashes(folder: Path, names: list[str]) -> dict[str, str]:
    # hashlib releases the interpreter's lock, so several files are read at once.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(lambda name: sha256_of(folder / name), names), strict=True))


def _bytes_of(folder: Path) -> int:
    """What its files take; those that go meanwhile take nothing."""
    total = 0
    with suppress(FileNotFoundError):
        for file in folder.rglob("*"):
            with suppress(FileNotFoundError):
                total += file.stat().st_size if file.is_file() else 0
    return total


@contextmanager
def _fixable(root: Path) -> Iterator[None]:
    """Turns a full or closed disk into one line that says how to go on; other errors pass through."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        why = _disk_trouble(error, root)
        if why is None:
            raise
        raise UsageError(
            f"the cache {root} cannot be written ({why}); free space there, "
            f"or set {ENVIRONMENT_VARIABLE} to a folder that can be written"
        ) from error


def _disk_trouble(error: Exception, root: Path) -> str | None:
    """What the disk under `root` has against us; None for any other error, e.g. an input that cannot be read."""
    if any(part in str(error).lower() for part in _FULL_DISK_TEXT):
        return "no space left on the device"
    if not isinstance(error, OSError) or not (isinstance(error, FileExistsError) or error.errno in _DISK_ERRORS):
        return None
    elsewhere = error.filename is not None and not Path(str(error.filename)).is_relative_to(root)
    # A parent of the root that cannot be written is the cache's trouble too.
    if elsewhere and not root.is_relative_to(str(error.filename)):
        return None
    return error.strerror
