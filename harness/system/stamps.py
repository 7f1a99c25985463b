"""Which version of a file is there, told without reading it, and digests that are remembered by version.

In: a path. Out: numbers that differ once the file was written again, whatever its size and its date say.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.store.cache import Cache, key_of, sha256_of

SHA256 = "sha256"
_DIGEST = "sha256.txt"
# A file system's clock ticks every few milliseconds, some only every second: two edits within one tick look like one.
SETTLING = 2.0  # seconds


def stamp_of(facts: os.stat_result) -> list[int]:
    """Device, inode, size, and the times in ns of the last change of content and of anything.

    Nobody can set the last one: an edit that keeps size and date (`touch -r`, `cp -p`, `rsync -t`) still moves it, and
    a file moved into another's place has another inode.
    """
    return [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def settled(facts: os.stat_result) -> bool:
    """Whether the next edit must give another stamp. False for a file that was written just now."""
    return abs(time.time_ns() - facts.st_ctime_ns) > SETTLING * 1e9


def sha256_once(file: Path, cache: Cache) -> str:
    """A file's SHA-256, read once per version: half a gigabyte is not read again for each run."""
    facts = file.stat()
    key = key_of({"path": str(file.resolve()), "stamp": stamp_of(facts)})
    known = cache.entry(SHA256, key)
    if known is not None:
        return (known / _DIGEST).read_text(encoding="ascii")
    digest = sha256_of(file)
    if settled(facts) and stamp_of(file.stat()) == stamp_of(facts):  # else it may hold something else by now
        cache.build(SHA256, key, lambda folder: _write(folder / _DIGEST, digest))
    return digest


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="ascii")
