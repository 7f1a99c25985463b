"""Runs in Python: opened by name, read once, with errors of one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from record_factory import make_run

import harness
from harness.errors import UsageError
from harness.interface.runs import Run
from harness.record.record import write_record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    record, frame = make_run("fail")
    place = tmp_path / "reports" / record.model / record.run_id
    traces = place / "traces" / "reauthored" / "long"
    traces.mkdir(parents=True)
    np.save(traces / "block.0.attn.q.npy", np.arange(6, dtype=np.float32).reshape(1, 3, 2))
    (traces / "logits.npy").write_bytes(b"no array")
    write_record(place, record, frame)
    return place


def test_a_run_is_opened_by_folder_and_by_name(folder: Path) -> None:
    named = harness.Run.open("smollm2@latest", out=folder.parents[1])
    assert (named.folder, named.verdict) == (folder, "fail")
    assert Run.open(folder).faults[0].tap == named.record.faults[0].tap
    assert {"tap", "excess", "hop"} <= set(named.taps.columns)
    assert repr(named).startswith("<Run smollm2 ")


def test_a_trace_is_mapped_and_what_is_not_there_is_told(folder: Path) -> None:
    run = Run.open(folder)
    trace = run.trace("reauthored", "long")
    assert list(trace) == ["block.0.attn.q", "logits"]
    assert isinstance(trace["block.0.attn.q"], np.memmap)
    assert trace["block.0.attn.q"].shape == (1, 3, 2)
    with pytest.raises(UsageError, match=r"logits\.npy is no array"):
        _ = trace["logits"]
    with pytest.raises(KeyError, match="no tap 'other'"):
        _ = trace["other"]
    for stage, name in (("hf", "long"), ("reauthored", "short"), ("..", "traces")):
        with pytest.raises(UsageError, match="it has reauthored, long"):
            run.trace(stage, name)


def test_a_run_without_traces_says_how_to_keep_them(tmp_path: Path) -> None:
    write_record(tmp_path, *make_run("pass"))
    with pytest.raises(UsageError, match="keep_traces=True"):
        Run.open(tmp_path).trace("hf", "long")


def test_a_notebook_shows_nothing_that_acts(tmp_path: Path) -> None:
    write_record(tmp_path, *make_run("hostile"))
    page = Run.open(tmp_path)._repr_html_()
    assert "<script" not in page
    assert "&lt;" in page
    assert "<th>worst excess</th>" in page


def test_an_option_that_there_is_not_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="no option 'minature'; a run has chat, checkpoint, "):
        harness.run("tiny_llama", minature=True)
    with pytest.raises(UsageError, match="no model 'tiny_lama'"):
        harness.run("tiny_lama")
    with pytest.raises(UsageError, match="no run of nobody in"):
        harness.Run.open("nobody@latest")
    assert not hasattr(harness, "other")


@pytest.mark.process
def test_the_package_is_imported_without_a_framework() -> None:
    code = "import harness, sys; assert harness.Run; print(sorted({'torch', 'pandas', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
