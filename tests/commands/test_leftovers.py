"""A run that was killed outright could not tidy up. The next run into that folder does, and spares runs under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.store.run_folder import NEWBORN, working_folder

HOLD = """
import sys, time
from pathlib import Path
from harness.store.run_folder import working_folder
with working_folder(Path(sys.argv[1]), "first") as folder:
    (folder / "traces").mkdir()
    print("there", flush=True)
    time.sleep(600)
"""


def age(folder: Path) -> None:
    """Make a folder older than those that a run may not have locked yet."""
    then = folder.stat().st_mtime - NEWBORN - 1
    os.utime(folder, (then, then))


@pytest.mark.process
def test_what_a_killed_run_left_goes_with_the_next_run_and_a_living_run_keeps_its_folder(tmp_path: Path) -> None:
    first = tmp_path / ".first.partial"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "there\n"
            age(first)
            with working_folder(tmp_path, "second"):
                assert (first / "traces").is_dir()
        finally:
            holder.send_signal(signal.SIGKILL)
    assert (first / "traces").is_dir()
    age(first)
    with working_folder(tmp_path, "third"):
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [".third.partial"]
    assert not list(tmp_path.iterdir())


def test_a_folder_just_made_is_spared_though_nobody_holds_it_yet(tmp_path: Path) -> None:
    newborn = tmp_path / ".newborn.partial"
    newborn.mkdir()
    with working_folder(tmp_path, "second"):
        assert newborn.is_dir()
