"""The folder in which a run works until it is whole, and what becomes of what it leaves behind.

In: where runs are. Out: a hidden folder there that the caller renames, or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UsageError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_PARTIAL = ".partial"
_NEWBORN = 5.0  # seconds in which a run has surely locked the folder it made


@contextmanager
def working_folder(parent: Path, run_id: str) -> Iterator[Path]:
    """A hidden folder beside the runs, which the caller renames when the run is whole; else it goes."""
    folder = parent / f".{run_id}{_PARTIAL}"
    _sweep(parent)
    made = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True)
        probe = folder / "probe"
        probe.write_text("")
        probe.unlink()
        lock = os.open(folder, os.O_RDONLY)  # never inherited; the system frees it with this process, however it ends
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError as error:
        raise UsageError(f"--out {parent.parent} cannot be written ({error.strerror}); give another folder") from None
    try:
        yield folder.resolve()
    except OSError as error:
        # Arrow words the system's error in its own way, and names no file.
        if error.errno not in FULL_DISK:
            raise
        why = os.strerror(error.errno)
        raise UsageError(f"--out {parent.parent}: {why}; free some space, or give another folder") from None
    finally:
        os.close(lock)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            for path in made:  # nothing was written: leave no empty folders either
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()


def _sweep(parent: Path) -> None:
    """Delete what killed runs left under `parent`: gigabytes of traces that nobody would ever look at."""
    for partial in parent.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime < _NEWBORN:
                continue
            lock = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def deleting(folders: Sequence[Path]) -> Iterator[None]:
    """Delete folders while something else is done, and be done with it at the end: gigabytes take seconds."""

    def delete() -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        yield
    finally:
        thread.join()
