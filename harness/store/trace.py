"""Traces: the taps of one stage on one input, on disk, written in pieces and read by memory map.

In: `[batch, time, ...]` arrays, whole or a stretch of positions at a time.
Out: a folder with the taps one after the other in one file, which is quick to make and to delete, and a
`manifest.json`, which is written last: a folder without it is not a trace. A kept trace has a `.npy` per tap.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.names.taps import LOCAL_SUFFIX, UNROUNDED_SUFFIX

MANIFEST = "manifest.json"
VALUES_FILE = "taps.bin"
_ALIGNMENT = 64

# How often `hf` is run for the noise floor: as it is, and with two other orders of summation.
NOISE_SAMPLES = 3


def sample(traces: Path, order: int) -> Path:
    """The folder of a further float32 run of the stage whose traces lie in `traces`; order 0 is the stage itself."""
    return traces.with_name(f"{traces.name}.order{order}") if order else traces


def local(traces: Path) -> Path:
    """The folder of a stage's local traces: each tap computed from a reference's values of the taps before it."""
    return traces.with_name(traces.name + LOCAL_SUFFIX)


def unrounded(traces: Path) -> Path:
    """The folder of a fake-quantised stage's traces without the rounding of the inputs of its layers."""
    return traces.with_name(traces.name + UNROUNDED_SUFFIX)


@dataclass
class StoredTap:
    """Where a tap of a trace lies in its file."""

    shape: tuple[int, ...]  # `[1, length, ...]`
    dtype: np.dtype[Any]
    offset: int  # bytes
    covered: list[list[int]] = field(default_factory=list)  # [start, stop] of positions that were written
    how: str = "read"  # or "derived"

    def as_json(self) -> dict[str, object]:
        """As the manifest holds it."""
        return {**vars(self), "dtype": self.dtype.str}

    @classmethod
    def of(cls, shape: list[int], dtype: str, offset: int, covered: list[list[int]], how: str) -> StoredTap:
        """Of what the manifest holds."""
        return cls(tuple(shape), np.dtype(dtype), offset, covered, how)


class TraceWriter:
    """Writes one trace of `length` positions; batch is 1. Use as a context manager.

    A tap may come in stretches (`start`), as a chunked prefill gives them. Positions never written
    are recorded as not covered, so that nobody compares zeros with zeros. only: the one tap that is kept; None: all.
    """

    def __init__(self, folder: Path, length: int, only: str | None = None) -> None:
        self.folder = folder
        self.length = length
        self.only = only
        self._taps: dict[str, StoredTap] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / VALUES_FILE).open("wb")
        self._end = 0

    def put(self, tap: str, values: np.ndarray[Any, Any], start: int = 0, how: str = "read") -> None:
        """Store `values` `[1, t, ...]` at positions `start:start+t`. `how` is "read" or "derived"."""
        if self.only not in (None, tap):
            return
        if values.ndim < 2 or values.shape[0] != 1:
            raise ValueError(f"{tap}: a tap is [1, time, ...], not {values.shape}")
        stop = start + values.shape[1]
        if stop > self.length:
            raise ValueError(f"{tap}: positions {start}:{stop} lie outside 0:{self.length}")
        shape = (1, self.length, *values.shape[2:])
        entry = self._taps.get(tap)
        if entry is None:
            entry = self._create(tap, shape, values.dtype, how)
        if entry.shape != shape or entry.dtype != values.dtype:
            raise ValueError(f"{tap}: {values.dtype}{shape} does not continue {entry.dtype}{entry.shape}")
        row_bytes = entry.dtype.itemsize * math.prod(shape[2:])
        self._file.seek(entry.offset + start * row_bytes)
        self._file.write(np.ascontiguousarray(values).data)
        if entry.covered and entry.covered[-1][1] == start:
            entry.covered[-1][1] = stop
        else:
            entry.covered.append([start, stop])

    def _create(self, tap: str, shape: tuple[int, ...], dtype: np.dtype[Any], how: str) -> StoredTap:
        self._taps[tap] = StoredTap(shape, dtype, self._end, how=how)
        size = dtype.itemsize * math.prod(shape)
        self._end += -(-size // _ALIGNMENT) * _ALIGNMENT
        return self._taps[tap]

    def close(self) -> None:
        self._file.truncate(self._end)
        self._file.close()
        manifest = {
            "length": self.length,
            "taps": {tap: entry.as_json() for tap, entry in self._taps.items()},
        }
        partial = self.folder / f".{MANIFEST}"
        partial.write_text(json.dumps(manifest))
        partial.replace(self.folder / MANIFEST)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


@dataclass(frozen=True)
class Trace:
    """A trace on disk. `load` maps a tap; nothing is read before it is touched."""

    folder: Path
    length: int
    taps: dict[str, StoredTap]

    @classmethod
    def open(cls, folder: Path) -> Trace:
        """Raises FileNotFoundError when the stage did not finish this trace."""
        manifest = json.loads((folder / MANIFEST).read_text())
        taps = {tap: StoredTap.of(**entry) for tap, entry in manifest["taps"].items()}
        return cls(folder, manifest["length"], taps)

    def __contains__(self, tap: str) -> bool:
        return tap in self.taps

    @cached_property
    def _map(self) -> mmap.mmap:
        with (self.folder / VALUES_FILE).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def load(self, tap: str) -> np.ndarray[Any, Any]:
        """`[1, time, ...]`, read-only and mapped: it costs memory only while it is looked at, and until `let_go`."""
        entry = self.taps[tap]
        return np.ndarray(entry.shape, entry.dtype, self._map, entry.offset)

    def covered(self, tap: str) -> list[tuple[int, int]]:
        """The stretches of positions that were written, in order."""
        return sorted((start, stop) for start, stop in self.taps[tap].covered)

    def how(self, tap: str) -> str:
        return self.taps[tap].how


def let_go(values: np.ndarray[Any, Any]) -> None:
    """Drop what was read of a mapped tap from this process's memory; it is read again when it is touched again."""
    owner: Any = values
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)


def export_npy(traces: Path) -> None:
    """Give every trace under `traces` a `.npy` per tap in place of its one file, for tools that are not ours."""
    for manifest in sorted(traces.rglob(MANIFEST)):
        trace = Trace.open(manifest.parent)
        for tap in trace.taps:
            values = trace.load(tap)
            np.save(trace.folder / f"{tap}.npy", values)
            let_go(values)
        (trace.folder / VALUES_FILE).unlink()
