"""The evidence of a fault as a run folder keeps it, read back, and the part of it that a script compares with.

In: `evidence/` of a run. Out: `SavedEvidence`.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import UsageError
from harness.explain.functions import Array
from harness.names.stages import Hop
from harness.plain import one_line
from harness.system.reading import read_json

MODULE, CUT = "module.pt", "cut.tflite"  # the faulty piece, of PyTorch or of a flatbuffer


@dataclass(frozen=True)
class SavedEvidence:
    """Evidence as it was saved, see `Evidence`. positions: of `expected`, in the input. noise: of the tap alone."""

    hop: str
    tap: str
    input: str
    worst: int
    read: list[str]
    entering: str | None
    known: dict[str, Array]
    expected: Array
    positions: Array
    norms: Array
    noise: Array
    accumulated: Array

    @property
    def candidate(self) -> str:
        return Hop.parse(self.hop).candidate


def load_evidence(folder: Path, number: int = 0) -> SavedEvidence:
    """Raises UsageError when the run has none."""
    try:
        about = read_json(folder / f"{number}.json", "run the model again")
        with np.load(folder / f"{number}.npz") as arrays:
            held: dict[str, Array] = {name: _wide(arrays[name]) for name in arrays.files}
        Hop.parse(str(about["hop"]))
        return SavedEvidence(
            hop=about["hop"],
            tap=about["tap"],
            input=about["input"],
            worst=about["worst"],
            read=about["read"],
            entering=about["entering"],
            known={name.removeprefix("known/"): held[name] for name in held if name.startswith("known/")},
            expected=held["expected"],
            positions=held["positions"],
            norms=held["norms"],
            noise=held["noise"],
            accumulated=held["accumulated"],
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{folder} holds no evidence of a fault ({one_line(error, 200)}); run the model again"
        ) from None


def _wide(values: Array) -> Array:
    return values.astype(np.float64) if values.dtype == np.float32 else values


def chosen(saved: SavedEvidence, start: int, stop: int, near: bool = True) -> dict[str, Array]:
    """What the script compares with, at the positions of the evidence between two positions of the input.

    near: whether the piece starts right before the tap, so that the noise is that of the tap alone.
    """
    rows = (saved.positions >= start) & (saved.positions < stop)
    if not rows.any():
        raise UsageError(f"{saved.tap}: the evidence holds none of positions {start} to {stop}; run the model again")
    return {
        "expected": saved.expected[rows],
        "norms": saved.norms[rows],
        "noise": (saved.noise if near else saved.accumulated)[rows],
        "positions": saved.positions[rows],
    }
