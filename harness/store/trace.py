"""Traces: the taps of one stage on one input, on disk, written in pieces and read by memory map.

In: `[batch, time, ...]` arrays, whole or a stretch of positions at a time.
Out: a folder with the taps one after the other in one file, which is quick to make and to delete, and a
`manifest.json`, which is written last: a folder without it is not a trace. A kept trace has a `.npy` per tap.
Of a long input most taps are kept at some positions only. Their places in the file are those of the whole tap, so that
a position is where it always is; what is not written between them takes no room on the disk.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.names.sample import Sample
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
    sampled: bool = False  # kept at some positions only, because the input is long

    def as_json(self) -> dict[str, object]:
        """As the manifest holds it."""
        return {**vars(self), "dtype": self.dtype.str}

    @classmethod
    def of(
        cls, shape: list[int], dtype: str, offset: int, covered: list[list[int]], how: str, sampled: bool
    ) -> StoredTap:
        """Of what the manifest holds."""
        return cls(tuple(shape), np.dtype(dtype), offset, covered, how, sampled)


class TraceWriter:
    """Writes one trace of `length` positions; batch is 1. Use as a context manager.

    A tap may come in stretches (`start`), as a chunked prefill gives them. Positions never written
    are recorded as not covered, so that nobody compares zeros with zeros. only: the one tap that is kept; None: all.
    sample: the positions that are kept of a long input; None: all.
    """

    def __init__(self, folder: Path, length: int, only: str | None = None, sample: Sample | None = None) -> None:
        self.folder = folder
        self.length = length
        self.only = only
        self.sample = sample
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
        for first, end in self.kept(tap, start, stop):
            self._write(entry, values[:, first - start : end - start], first)

    def kept(self, tap: str, start: int, stop: int) -> list[tuple[int, int]]:
        """The stretches of positions from `start` to before `stop` that are kept of a tap."""
        if self.only not in (None, tap):
            return []
        if self.sample is None or not self.sample.holds(tap):
            return [(start, stop)]
        return self.sample.within(start, stop)

    def _write(self, entry: StoredTap, values: np.ndarray[Any, Any], start: int) -> None:
        row_bytes = entry.dtype.itemsize * math.prod(entry.shape[2:])
        self._file.seek(entry.offset + start * row_bytes)
        self._file.write(np.ascontiguousarray(values).data)
        stop = start + values.shape[1]
        if entry.covered and entry.covered[-1][1] == start:
            entry.covered[-1][1] = stop
        else:
            entry.covered.append([start, stop])

    def _create(self, tap: str, shape: tuple[int, ...], dtype: np.dtype[Any], how: str) -> StoredTap:
        sampled = self.sample is not None and self.sample.holds(tap)
        self._taps[tap] = StoredTap(shape, dtype, self._end, how=how, sampled=sampled)
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

    def covered_within(self, tap: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The stretches of positions `start:stop` that a tap holds."""
        for first, end in self.covered(tap):
            first, end = max(first, start), min(end, stop)
            if first < end:
                yield first, end

    def covered(self, tap: str) -> list[tuple[int, int]]:
        """The stretches of positions that were written, in order; none touches another."""
        if tap not in self._covered:
            self._covered[tap] = _joined(self.taps[tap].covered)
        return self._covered[tap]

    @cached_property
    def _covered(self) -> dict[str, list[tuple[int, int]]]:
        return {}

    def is_whole(self, tap: str) -> bool:
        """Whether every position was written."""
        return self.covered(tap) == [(0, self.length)]

    def positions(self, tap: str) -> np.ndarray[Any, Any]:
        """The positions that were written, in order."""
        spans = [np.arange(start, stop) for start, stop in self.covered(tap)]
        return np.concatenate(spans) if spans else np.arange(0)

    def how(self, tap: str) -> str:
        return self.taps[tap].how


def _joined(written: list[list[int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, stop in sorted(written):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found


def let_go(values: np.ndarray[Any, Any]) -> None:
    """Drop what was read of a mapped tap from this process's memory; it is read again when it is touched again."""
    owner: Any = values
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)


def export_npy(traces: Path) -> None:
    """Give every trace under `traces` a `.npy` per tap in place of its one file, for tools that are not ours.

    Of a tap that is kept at some positions it has those rows alone; `covered` in the manifest says which they are.
    """
    for manifest in sorted(traces.rglob(MANIFEST)):
        trace = Trace.open(manifest.parent)
        for tap in trace.taps:
            values = trace.load(tap)
            rows = values[:, trace.positions(tap)] if trace.taps[tap].sampled else values
            np.save(trace.folder / f"{tap}.npy", rows)
            let_go(values)
        (trace.folder / VALUES_FILE).unlink()
