"""A file's digest is remembered for that version of it, and for no other."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from harness.store import digests
from harness.store.cache import Cache
from harness.store.digests import sha256_once
from harness.system import stamps
from harness.system.stamps import stamp_of


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "weights"
    made.write_bytes(b"one")
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file counts as settled at once, so that no test has to wait until it does."""
    monkeypatch.setattr(stamps, "SETTLING", 0.0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["in place", "moved there", "through a link"])
def test_another_content_of_the_same_size_and_date_is_another_version(file: Path, cache: Cache, how: str) -> None:
    before = file.stat()
    assert sha256_once(file, cache) == digest(b"one")
    target = file
    if how == "moved there":
        target = file.with_name("other")
    elif how == "through a link":
        (file.parent / "link").symlink_to(file)
        assert sha256_once(file.parent / "link", cache) == digest(b"one")
    with target.open("wb") as stream:
        stream.write(b"two")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    if how == "moved there":
        target.replace(file)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert stamp_of(file.stat()) != stamp_of(before)
    assert sha256_once(file.parent / "link" if how == "through a link" else file, cache) == digest(b"two")


@pytest.mark.usefixtures("at_once")
def test_an_unchanged_file_is_read_once(file: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256_once(file, cache)
    monkeypatch.setattr(digests, "sha256_of", lambda file: pytest.fail("read again"))
    assert sha256_once(file, cache) == digest(b"one")


def test_a_file_written_just_now_is_remembered_by_nobody(file: Path, cache: Cache) -> None:
    """The next edit may fall into the same tick of the file system's clock, and would have the same stamp."""
    assert sha256_once(file, cache) == digest(b"one")
    assert cache.size_report() == []


def test_a_clock_that_was_set_back_costs_no_digest(file: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    an_hour_ago = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    assert sha256_once(file, cache) == digest(b"one")
    assert [kind for kind, *_ in cache.size_report()] == [digests.SHA256]


@pytest.mark.usefixtures("at_once")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    file: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_edit(path: Path) -> str:
        found = digest(path.read_bytes())
        path.write_bytes(b"two")
        return found

    monkeypatch.setattr(digests, "sha256_of", read_and_edit)
    sha256_once(file, cache)
    assert cache.size_report() == []
