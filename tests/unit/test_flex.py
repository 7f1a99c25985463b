"""The environment with Flex: whole or not there, and one line where it cannot be built."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import UsageError
from harness.stages.keras.loop_job import run_text
from harness.store import flex
from harness.store.cache import ENTRY_FILE, Cache
from harness.store.flex import FLEX, build, interpreter, why_not_installed

pytestmark = pytest.mark.process


def silent(*_: object) -> None:
    pass


def test_it_is_there_when_its_entry_is_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert interpreter(cache) is None
    python = flex.folder_of(cache) / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    assert interpreter(cache) is None, "nobody has written that it is whole"
    (python.parent.parent / ENTRY_FILE).write_text("{}")
    assert interpreter(cache) == python
    python.unlink()
    assert interpreter(cache) is None


def test_without_a_package_index_nothing_is_left_and_a_line_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    cache = Cache(tmp_path)
    with pytest.raises(UsageError, match=r"pip finds no package index that has tensorflow 2\.19\.1") as raised:
        build(cache, silent)
    assert "\n" not in str(raised.value)
    assert interpreter(cache) is None
    assert [path.name for path in (tmp_path / FLEX).iterdir() if path.is_dir()] == []


def test_without_room_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    with pytest.raises(UsageError, match=r"1\.0 GB free, and building the Flex environment needs 3\.5 GB"):
        build(Cache(tmp_path), silent)


def test_what_pip_says_becomes_one_line_with_its_remedy() -> None:
    full = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    assert "no room" in why_not_installed(full)
    assert "PIP_INDEX_URL" in why_not_installed("ERROR: No matching distribution found for tensorflow==2.19.1")
    odd = why_not_installed("Collecting x\nERROR: something else")
    assert "something else" in odd
    assert flex.INSTALL in odd


@pytest.mark.parametrize(("does", "said"), [("exit 3", "exit code 3"), ("kill -9 $$", "SIGKILL")])
def test_a_process_that_ends_badly_is_a_crash_of_this_stage_alone(does: str, said: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o755)
    with pytest.raises(RuntimeError, match=f"the process with Flex .*{said}"):
        run_text(tmp_path / "none.tflite", {"p": "a"}, python)
