"""The cache keeps whole, verified entries, and nothing else."""

from __future__ import annotations

import errno
import json
import multiprocessing
import time
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.store.cache import ENTRY_FILE, Cache, key_of


def write_payload(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 64)
    (folder / "sub" / "note.txt").write_text("kept")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_an_entry_is_made_once_and_found_again(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []

    def make(folder: Path) -> None:
        calls.append(folder)
        write_payload(folder)

    first = cache.build("thing", "k1", make)
    assert cache.build("thing", "k1", make) == first == cache.entry("thing", "k1")
    assert len(calls) == 1
    assert (first / "sub" / "note.txt").read_text() == "kept"
    assert set(cache.checksums("thing", "k1")) == {"weights.bin", "sub/note.txt"}


def test_an_absent_entry_is_none_and_makes_no_folder(tmp_path: Path) -> None:
    assert Cache(tmp_path / "never").entry("thing", "k1") is None
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "harm", ["flipped byte", "cut short", "file gone", "list gone", "list is not JSON", "list empty"]
)
def test_a_damaged_entry_is_noticed_said_and_made_again(tmp_path: Path, harm: str) -> None:
    said: list[str] = []
    cache = Cache(tmp_path, said.append)
    folder = cache.build("thing", "k1", write_payload)
    file = folder / "weights.bin"
    whole = file.read_bytes()
    if harm == "flipped byte":
        file.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    elif harm == "cut short":
        file.write_bytes(whole[:-1])
    elif harm == "file gone":
        file.unlink()
    elif harm == "list gone":
        (folder / ENTRY_FILE).unlink()
    else:
        (folder / ENTRY_FILE).write_text("{" if harm == "list is not JSON" else "[]")
    assert cache.entry("thing", "k1") is None
    assert len(said) == 1
    assert str(folder) in said[0]
    assert "damaged" in said[0]
    rebuilt = cache.build("thing", "k1", write_payload)
    assert (rebuilt / "weights.bin").read_bytes() == whole
    assert names_in(tmp_path / "thing") == ["k1"]


@pytest.mark.parametrize("raised", [RuntimeError("converter fell over"), KeyboardInterrupt()])
def test_a_make_that_raises_leaves_nothing(tmp_path: Path, raised: BaseException) -> None:
    def make(folder: Path) -> None:
        write_payload(folder)
        raise raised

    cache = Cache(tmp_path)
    with pytest.raises(type(raised)):
        cache.build("thing", "k1", make)
    assert names_in(tmp_path / "thing") == []
    assert cache.entry("thing", "k1") is None
    assert cache.build("thing", "k1", write_payload).is_dir()


def test_a_folder_that_verify_refuses_is_not_kept(tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise ValueError(f"{len(list(folder.iterdir()))} things, none right")

    with pytest.raises(ValueError, match="none right"):
        Cache(tmp_path).build("thing", "k1", write_payload, refuse)
    assert names_in(tmp_path / "thing") == []


@pytest.mark.parametrize(
    "raised",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("Error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path, raised: Exception) -> None:
    def make(folder: Path) -> None:
        write_payload(folder)
        raise raised

    with pytest.raises(UsageError) as caught:
        Cache(tmp_path).build("thing", "k1", make)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "EDGE_PARITY_CACHE" in message
    assert "\n" not in message
    assert names_in(tmp_path / "thing") == []


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="EDGE_PARITY_CACHE"):
            Cache(root).build("thing", "k1", write_payload)


def test_an_input_that_cannot_be_read_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else")

    with pytest.raises(PermissionError):
        Cache(tmp_path).build("thing", "k1", make)


def test_what_an_interrupted_run_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "thing" / ".k0.partial"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    Cache(tmp_path).build("thing", "k1", write_payload)
    assert names_in(tmp_path / "thing") == ["k1"]


def test_what_another_run_is_making_is_not_swept(tmp_path: Path) -> None:
    from filelock import FileLock

    partial = tmp_path / "thing" / ".k0.partial"
    partial.mkdir(parents=True)
    with FileLock(tmp_path / "thing" / ".k0.lock"):
        Cache(tmp_path).build("thing", "k1", write_payload)
        assert partial.is_dir()


def test_an_interrupted_run_does_not_stop_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / "thing" / ".k1.partial"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    folder = Cache(tmp_path).build("thing", "k1", write_payload)
    assert not (folder / "half").exists()
    assert names_in(tmp_path / "thing") == ["k1"]


def test_a_key_does_not_depend_on_the_order_of_its_parts() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    with pytest.raises(TypeError):
        key_of({"a": object()})


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b"])
def test_a_name_cannot_leave_the_cache(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        Cache(tmp_path).entry("thing", name)


def test_sizes_are_reported_by_kind_and_entries_can_be_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for key in ("k1", "k2"):
        cache.build("thing", key, write_payload)
    cache.build("other", "k1", write_payload)
    size = sum(file.stat().st_size for file in cache.root.joinpath("thing", "k1").rglob("*") if file.is_file())
    assert cache.size_report() == [("other", 1, size), ("thing", 2, 2 * size)]
    assert cache.remove("thing", "k1") == size
    assert cache.entry("thing", "k1") is None
    assert cache.remove() == 2 * size
    assert cache.size_report() == []


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_PARITY_CACHE", str(tmp_path / "mine"))
    assert Cache.standard().root == tmp_path / "mine"
    monkeypatch.delenv("EDGE_PARITY_CACHE")
    assert "edge-parity" in str(Cache.standard().root)


def test_a_temporary_cache_stays_in_its_folder(tmp_path: Path) -> None:
    assert tmp_path in Cache.temporary(tmp_path).build("thing", "k1", write_payload).parents


def build_slowly(root: Path, journal: Path, start: float) -> None:
    def make(folder: Path) -> None:
        with journal.open("a") as stream:
            stream.write("made\n")
        time.sleep(0.4)
        write_payload(folder)

    time.sleep(max(0.0, start - time.time()))
    Cache(root).build("thing", "k1", make)


@pytest.mark.process
def test_two_processes_that_want_one_entry_make_it_once(tmp_path: Path) -> None:
    journal, start = tmp_path / "journal", time.time() + 1.0
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=build_slowly, args=(tmp_path / "cache", journal, start)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert [run.exitcode for run in runs] == [0, 0]
    assert journal.read_text() == "made\n"
    assert json.loads((tmp_path / "cache" / "thing" / "k1" / ENTRY_FILE).read_text())["files"]
