"""The folder for whatever this process and those that it starts put aside for a while.

In: where the system keeps such things. Out: a folder there, in use as long as this process lives. It goes with the
process; what a killed one left goes with the next that starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from multiprocessing.util import Finalize
from pathlib import Path

from harness.errors import UsageError

PREFIX = "edge-parity-run-"
_NEWBORN = 5.0  # seconds in which a process has surely locked the folder it made
_LONGEST = 60  # characters; the address of a socket in it may have 107, of which `multiprocessing` needs 30

_own: Path | None = None


def use_own_temporary_folder() -> None:
    """Have this process and its children put temporary files into a folder of its own. Once; later calls do nothing.

    Raises UsageError where none can be made.
    """
    global _own
    if _own is not None and _own.is_dir():
        return
    try:
        base = Path(tempfile.gettempdir())
        _sweep(base)
        if len(str(base)) + len(PREFIX) + 8 > _LONGEST:
            return  # each library makes its own there, as ever
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)  # never inherited; freed with this process
        (folder / "probe").write_bytes(bytes(4096))
        (folder / "probe").unlink()
    except OSError as error:
        raise UsageError(
            f"no temporary file can be written ({error.strerror}); free some space there, or set TMPDIR to a folder "
            "that can be written"
        ) from None
    _own = folder
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # After `multiprocessing` has removed what it keeps in there, which it does at -100; in this process alone.
    Finalize(None, remove_temporary_folder, exitpriority=-200)


def remove_temporary_folder() -> None:
    """Delete it, also for a process that runs nothing of what is registered for its end."""
    if _own is not None:
        shutil.rmtree(_own, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Delete what killed processes of this user left. The system frees a dead process's lock: a free lock tells."""
    for left in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            facts = left.lstat()
            if facts.st_uid != os.getuid() or abs(time.time() - facts.st_mtime) < _NEWBORN:
                continue
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)
