"""A small disk, a small memory, a clock that was set back, a closed folder: one clear line, and nothing left behind."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

from harness.commands import doctor
from harness.errors import UsageError
from harness.record.runs import all_runs, find_run, next_run_id
from harness.store import run_folder as working
from harness.store.cache import Cache
from harness.system.memory import group_limits, memory

GB = 10**9


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# Temporary files.

HOLD = """
import multiprocessing.util, tempfile, time
from harness.system.temporary import use_own_temporary_folder
use_own_temporary_folder()
print(multiprocessing.util.get_temp_dir(), flush=True)
{then}
"""


def holder(folder: Path, then: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", HOLD.format(then=then)]
    env = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: the address of a socket in it has a limit."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.process
def test_temporary_files_of_a_killed_run_go_with_the_next_and_a_living_run_keeps_its_own(place: Path) -> None:
    foreign = place / "pymp-of-somebody-else"
    foreign.mkdir()
    with holder(place, "time.sleep(600)") as living, holder(place, "time.sleep(600)") as killed:
        try:
            assert living.stdout is not None
            assert killed.stdout is not None
            kept, left = (Path(run.stdout.readline().strip()) for run in (living, killed) if run.stdout)
            assert kept.parent.name.startswith("edge-parity-run-")
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            assert left.is_dir()
            for folder in (kept.parent, left.parent):
                os.utime(folder, (time.time() - 60, time.time() - 60))
            with holder(place, "") as third:
                third.communicate(timeout=60)
            assert not left.parent.exists()
            assert kept.is_dir()
        finally:
            living.send_signal(signal.SIGTERM)
            killed.kill()
    assert foreign.is_dir()


@pytest.mark.process
@pytest.mark.parametrize(
    "then", ["", "raise ValueError", "from harness.commands.exits import interrupted\ninterrupted('nothing')"]
)
def test_however_a_run_ends_its_temporary_files_go(place: Path, then: str) -> None:
    with holder(place, then) as run:
        _, said = run.communicate(timeout=60)
    assert list(place.iterdir()) == []
    assert said.count("Traceback") == then.startswith("raise"), "and nothing goes wrong over it"


@pytest.mark.process
def test_a_temporary_folder_that_is_full_is_one_clear_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.system import temporary

    with small_disk(place / "disk", "size=8k") as disk:
        (disk / "filler").write_bytes(bytes(8192))
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        monkeypatch.setattr(temporary, "_own", None)
        with pytest.raises(UsageError, match="TMPDIR"):
            temporary.use_own_temporary_folder()
        assert os.environ.get("TMPDIR") != str(disk)


# The cache.


def test_what_interrupted_runs_left_in_the_cache_goes_when_the_next_begins_whatever_it_makes(tmp_path: Path) -> None:
    from filelock import FileLock

    for kind in ("conversions", "weights"):
        (tmp_path / kind / ".k0.partial").mkdir(parents=True)
    with FileLock(tmp_path / "weights" / ".k0.lock"):
        Cache(tmp_path).sweep()
    assert not (tmp_path / "conversions" / ".k0.partial").exists()
    assert (tmp_path / "weights" / ".k0.partial").exists(), "somebody is at work on it"
    Cache(tmp_path / "nowhere").sweep()


def test_a_home_that_is_not_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> str:
        raise RuntimeError("could not determine the home directory")  # as for a user that has none

    monkeypatch.delenv("EDGE_PARITY_CACHE", raising=False)
    for found in (nobody, lambda *_, **__: "~/.cache/edge-parity"):
        monkeypatch.setattr("platformdirs.user_cache_dir", found)
        with pytest.raises(UsageError, match="EDGE_PARITY_CACHE"):
            Cache.standard()
        monkeypatch.setattr(doctor, "variables_set", list)  # whoever has some waits for the frameworks
        (check,) = [check for check in doctor.examine() if check.name == "cache"]
        assert check.status == "missing"
        assert "EDGE_PARITY_CACHE" in check.remedy


@pytest.mark.process
def test_a_read_only_cache_is_read_and_one_clear_line_where_it_must_be_written(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "file").write_text("kept")

    with small_disk(tmp_path / "disk", "size=1m") as disk:
        made = Cache(disk / "cache").build("thing", "k1", make)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        cache = Cache(disk / "cache")
        assert cache.build("thing", "k1", make) == made
        cache.sweep()
        with pytest.raises(UsageError, match="EDGE_PARITY_CACHE"):
            cache.build("thing", "k2", make)


def test_what_cannot_be_remembered_costs_the_next_run_time_and_this_one_nothing(tmp_path: Path) -> None:

    from harness.pipeline.prepared_cache import remember
    from harness.spec.rests import Rests

    (tmp_path / "file").write_text("no folder")

    class Told:
        def model_dump_json(self) -> str:
            return "{}"

    remember(Cache(tmp_path / "file"), "k1", Told(), [Rests()])  # type: ignore[arg-type]


def test_an_entry_is_replaced_while_others_read_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def make(content: str) -> None:
        cache.replace("thing", "k1", lambda folder: (folder / "file").write_text(content) and None)

    make("0")
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(30):
                make(str(number))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        cache.size_report()
    assert failed == []
    entry = cache.entry("thing", "k1")
    assert entry is not None
    assert (entry / "file").read_text() == "29"


# A checkout that nobody may write, as an image of a container has it.

CLOSED = """
mount --bind {root} {root} && mount -o remount,ro,bind {root} || exit 77
cd {root} && touch README.md 2>/dev/null && exit 78
HOME=/proc/nowhere EDGE_PARITY_CACHE={cache} {python} -c "
import numpy as np
from harness.compare.kernels import *
from harness.stages.torch.one_accumulator import sums
found = np.zeros(2, np.float32)
sums(np.ones((2, 8), np.float32), found, False)
print(found.tolist())"
{python} -m harness.commands.main list --json > /dev/null && echo listed
{python} -m harness.commands.main run nobody; echo $?
"""


@pytest.mark.slow
def test_a_closed_checkout_without_a_home_runs(tmp_path: Path) -> None:
    script = CLOSED.format(root=ROOT, cache=tmp_path / "cache", python=sys.executable)
    ended = subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, timeout=300)
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip("nothing can be mounted here")
    assert ended.stdout.split("\n")[:2] == ["[8.0, 8.0]", "listed"], ended.stderr
    assert ended.stdout.split("\n")[2] == "2"
    assert "Traceback" not in ended.stderr


# The clock.

NOW = datetime.datetime(2026, 11, 28, 12, 0, 0, tzinfo=datetime.UTC)


def test_a_run_that_begins_after_the_clock_was_set_back_is_still_the_latest(tmp_path: Path) -> None:
    for name in ("tiny_llama/20261128-130000-ffff", "smollm2/20261128-143059-0000", "smollm2/.20271128-143059-0000"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "parity.json").touch()
    made = tmp_path / "tiny_llama" / next_run_id(tmp_path, NOW)
    assert made.name.startswith("20261128-143100-")
    made.mkdir()
    (made / "parity.json").touch()
    assert find_run("latest", tmp_path) == find_run("tiny_llama@latest", tmp_path) == made == all_runs(tmp_path)[-1]


def test_a_run_is_called_by_its_time_where_the_clock_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tiny_llama" / "20261128-115959-ffff").mkdir(parents=True)
    (tmp_path / "tiny_llama" / "99999999-999999-ffff").mkdir()
    assert next_run_id(tmp_path / "nowhere", NOW).startswith("20261128-120000-")
    assert next_run_id(tmp_path, NOW).startswith("20261128-120000-")
    assert next_run_id(tmp_path, NOW) != next_run_id(tmp_path, NOW)


def test_what_a_killed_run_left_goes_though_the_clock_was_set_back(tmp_path: Path) -> None:
    left = tmp_path / ".first.partial"
    left.mkdir()
    ahead = time.time() + 3600
    os.utime(left, (ahead, ahead))
    with working.working_folder(tmp_path, "second"):
        assert not left.exists()


# Memory.


def group(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/", {"memory.max": f"{2 * GB}\n", "memory.current": f"{GB}\n"}, [(2 * GB, GB)]),
        ("0::/app\n", {"app/memory.max": "max\n", "memory.max": f"{GB}", "memory.current": "0"}, [(GB, GB)]),
        ("0::/a/b\n", {"a/b/memory.max": f"{3 * GB}", "a/memory.max": f"{GB}"}, [(3 * GB, 3 * GB), (GB, GB)]),
        (
            "0::/\n",
            {
                "memory.max": f"{2 * GB}",
                "memory.current": f"{2 * GB}",
                "memory.stat": f"anon 5\nactive_file 7\ninactive_file {GB}\n",
            },
            [(2 * GB, GB)],
        ),
        (
            "5:cpu:/\n4:memory:/box\n0::/\n",
            {
                "memory/box/memory.limit_in_bytes": f"{2 * GB}",
                "memory/box/memory.usage_in_bytes": f"{GB}",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            [(2 * GB, GB)],
        ),
        ("0::/host/path\n", {"memory.max": f"{GB}"}, [(GB, GB)]),
        ("0::/\n", {"memory.max": "max"}, []),
        ("", {}, []),
    ],
    ids=[
        "v2",
        "limit above",
        "two limits",
        "files can be forgotten",
        "v1",
        "path of the host",
        "no limit",
        "no groups",
    ],
)
def test_a_limit_of_a_control_group_is_known(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: list[tuple[int, int]]
) -> None:
    assert group_limits(group(tmp_path, cgroup, files)) == expected


def test_the_smaller_of_machine_and_group_counts(tmp_path: Path) -> None:
    import psutil

    machine = psutil.virtual_memory().total
    small = memory(group(tmp_path / "a", "0::/\n", {"memory.max": f"{GB}", "memory.current": f"{GB // 2}"}))
    assert (small.total, small.free) == (GB, GB // 2)
    large = memory(group(tmp_path / "b", "0::/\n", {"memory.max": f"{machine * 2}", "memory.current": "0"}))
    assert large.total == machine
    over = memory(group(tmp_path / "c", "0::/\n", {"memory.max": f"{GB}", "memory.current": f"{2 * GB}"}))
    assert over.free == 0
