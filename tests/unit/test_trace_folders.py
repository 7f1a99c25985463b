"""Two folders of traces compared: the documented format, what a run keeps, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UsageError
from harness.pairs.folders import folder_traces
from harness.pairs.trace_compare import compare_traces
from harness.record.pair import PairComparison
from harness.store.trace import TraceWriter, export_npy

TOKENS = list(range(6))
TAPS = {name: np.random.default_rng(n).standard_normal((6, 4)).astype(np.float32) for n, name in enumerate("xyz")}


def written(folder: Path, taps: dict[str, Any] = TAPS, tokens: list[int] = TOKENS, **more: Any) -> Path:
    folder.mkdir()
    np.savez(folder / "long.npz", **taps)
    manifest = {
        "format": "edge-parity-traces/1",
        "inputs": [{"id": "long", "tokens": tokens, "file": "long.npz"}],
        **more,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def kept(folder: Path, taps: dict[str, Any] = TAPS) -> Path:
    """As a run keeps the traces of a stage."""
    with TraceWriter(folder / "long", 6) as trace:
        for name, values in taps.items():
            trace.put(name, values[None])
    export_npy(folder)
    return folder


def compare_folders(a: Path, b: Path) -> PairComparison:
    return compare_traces(folder_traces(a), folder_traces(b))


def test_the_same_traces_agree_and_the_first_tap_that_differs_is_named(tmp_path: Path) -> None:
    a = written(tmp_path / "a")
    assert compare_folders(a, written(tmp_path / "b")).exit_code == 0
    wrong = {**TAPS, "y": TAPS["y"] * np.float32(1.001), "z": TAPS["z"] + 1}
    found = compare_folders(a, written(tmp_path / "c", wrong))
    assert found.first_fault is not None
    assert (found.exit_code, found.first_fault.b.tensor, found.signatures[0].over) == (1, "y", 2)


def test_traces_of_a_run_are_read_as_they_are_kept_and_give_the_floor(tmp_path: Path) -> None:
    noisy = {name: values * np.float32(1 + 1e-4) for name, values in TAPS.items()}
    kept(tmp_path / "run" / "oracle", {name: values.astype(np.float64) for name, values in TAPS.items()})
    for name in ("hf", "hf.order1", "hf.order2", "reauthored"):
        kept(tmp_path / "run" / name, noisy)
    other = {name: values * np.float32(1 - 1e-4) for name, values in TAPS.items()}
    found = compare_folders(tmp_path / "run" / "reauthored", written(tmp_path / "b", other))
    assert (found.exit_code, found.signatures[0].floor) == (0, "oracle")
    assert found.signatures[0].outputs[0].snr_db == pytest.approx(-20 * np.log10(2e-4), abs=0.1)
    assert compare_folders(written(tmp_path / "c", noisy), tmp_path / "b").exit_code == 1  # no floor is known there


def test_what_is_in_one_folder_alone_is_no_pass(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a"), written(tmp_path / "b", {"x": TAPS["x"]})
    found = compare_folders(a, b)
    assert (found.exit_code, found.problems) == (1, ["taps y, z of long are in A alone"])
    assert compare_folders(b, a).problems == ["taps y, z of long are in B alone"]
    broken = {**TAPS, "z": np.where(np.arange(24).reshape(6, 4) == 5, np.nan, TAPS["z"])}
    assert compare_folders(a, written(tmp_path / "c", broken)).exit_code == 1


def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path) -> None:
    a = written(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    pickled = written(tmp_path / "pickled", {"x": np.array([object()], dtype=object)})
    escaping = written(tmp_path / "escaping")
    entry = {"id": "long", "tokens": TOKENS, "file": "../a/long.npz"}
    (escaping / "manifest.json").write_text(json.dumps({"format": "edge-parity-traces/1", "inputs": [entry]}))
    for folder, words in (
        (tmp_path / "empty", "has no manifest.json"),
        (written(tmp_path / "older", format="other"), "is not a manifest of 'edge-parity-traces/1'"),
        (written(tmp_path / "tokens", tokens=[9, *TOKENS[1:]]), "has other tokens"),
        (written(tmp_path / "short", tokens=[1, 2]), "the input has 2 tokens"),
        (pickled, "holds no arrays"),
        (escaping, "is not a file in that folder"),
    ):
        with pytest.raises(UsageError, match=r"docs/traces|trace the same|a tap is") as refused:
            compare_folders(a, folder)
        assert words in str(refused.value)
