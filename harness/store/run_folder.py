"""The folder in which a run works until it is whole, and what becomes of what it leaves behind.

In: where runs are. Out: a hidden folder there that the caller renames, or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UsageError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LOG_FILE = "run.log"
_PARTIAL = ".partial"
NEWBORN = 5.0  # seconds in which a run has surely locked the folder it made


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
            _keep_log(folder / LOG_FILE, parent / f"{run_id}.fault.log", error)
            raise
        why = os.strerror(error.errno)
        raise UsageError(f"--out {parent.parent}: {why}; free some space, or give another folder") from None
    except UsageError:
        raise
    except Exception as error:
        _keep_log(folder / LOG_FILE, parent / f"{run_id}.fault.log", error)
        raise
    finally:
        os.close(lock)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            for path in made:  # nothing was written: leave no empty folders either
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()


def _keep_log(log: Path, kept: Path, error: Exception) -> None:
    """What nobody foresaw: the run goes, its log stays, with the traceback; the error then says where."""
    with contextlib.suppress(OSError):
        said = log.read_text(errors="replace") if log.is_file() else ""
        kept.write_text(f"{said}--- edge-parity ---\n{''.join(traceback.format_exception(error))}", errors="replace")
        error.add_note(f"{kept} has its traceback")


def _sweep(parent: Path) -> None:
    """Delete what killed runs left under `parent`: gigabytes of traces that nobody would ever look at."""
    for partial in parent.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if abs(time.time() - partial.stat().st_mtime) < NEWBORN:  # a clock that was set back makes it negative
                continue
            lock = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial, ignore_errors=True)
            finally:
                os.close(lock)


def check_target(file: Path, option: str, example: str) -> None:
    """Raises UsageError where a file that an option names cannot be written. example: a name in place of a folder's."""
    try:
        if file.is_dir():
            raise UsageError(f"{option} {file} is a folder; give a file, e.g. {file / example}")
        if file.exists() and not file.is_file():
            raise UsageError(f"{option} {file} is not a regular file; give another")
        folder = next(path for path in file.resolve().parents if path.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{option} {file} cannot be written ({error.strerror}); give a file in another folder"
        ) from None


def check_new_folder(folder: Path, option: str) -> None:
    """Raises UsageError where an option names a folder that holds anything, or that cannot be made."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{option} {folder} is there already; give a new folder")
    check_target(folder / "any", option, "")


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
