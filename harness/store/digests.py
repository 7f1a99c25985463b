"""Digests of files, remembered by version. In: a file. Out: its SHA-256, read once for each version of it."""

from __future__ import annotations

from pathlib import Path

from harness.store.cache import Cache, key_of, sha256_of
from harness.system.stamps import settled, stamp_of

SHA256 = "sha256"
_DIGEST = "sha256.txt"


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
