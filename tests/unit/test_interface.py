"""Runs in Python: opened by name, read once, with errors of one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from paths import ROOT
from record_factory import make_run

import harness
from harness.commands.main import app
from harness.commands.options import recipes_named
from harness.errors import UsageError
from harness.interface.options import options_of
from harness.interface.runs import Run
from harness.names.variant import VariantOptions
from harness.pipeline.options import Options
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
    with pytest.raises(UsageError, match=r"logits\.npy is not an array"):
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


@pytest.mark.files  # a run makes its own temporary folder
def test_an_option_that_there_is_not_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="no option 'minature'; a run has chat, checkpoint, "):
        harness.run("tiny_llama", minature=True)
    with pytest.raises(UsageError, match="no model 'tiny_lama'"):
        harness.run("tiny_lama")
    with pytest.raises(UsageError, match="no run of nobody in"):
        harness.Run.open("nobody@latest")
    assert not hasattr(harness, "other")


@pytest.mark.files
def test_a_folder_of_another_route_is_declared_as_the_command_line_declares_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    found = options_of(str(tmp_path), {"route": "export-hf"})
    assert (found.checkpoint, found.model.endswith("spec.py:MODEL")) == (str(tmp_path.resolve()), True)
    with pytest.raises(UsageError, match="the routes of a folder are export-hf"):
        options_of(str(tmp_path), {"route": "keras"})


def test_the_options_are_those_of_the_command_line() -> None:
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    typed = {option.name for option in command.params}
    with pytest.raises(UsageError) as caught:
        options_of("m", {"no": 1})
    offered = set(str(caught.value).partition("a run has ")[2].split(", "))
    assert typed - offered == {"models", "every", "github", "as_json", "debug"}  # what a terminal alone needs
    assert offered <= typed


def test_an_option_becomes_what_the_command_line_makes_of_it(tmp_path: Path) -> None:
    made = options_of("m", {
        "prompt": "Hello, you", "inputs": str(tmp_path / "in.jsonl"), "stages": "hf, reauthored", "kv_cache_len": 64,
        "prefill": [32, 8], "mask_as_input": True, "hlfb": False, "kv_layout": "transposed", "layers": None,
        "quantize": ["dynamic_int8"], "timeout": 60, "out": tmp_path,
    })  # fmt: skip
    assert made == Options(
        "m", prompts=("Hello, you",), inputs_file=tmp_path / "in.jsonl", stages=("hf", "reauthored"),
        variant=VariantOptions(False, "transposed", True, (8, 32), 64), quantize=recipes_named("dynamic_int8"),
        timeout=60.0, out=tmp_path,
    )  # fmt: skip
    assert options_of("m", {"prompt": ["a", "b"]}).prompts == ("a", "b")
    assert options_of("m", {"prefill": "8,32"}).variant == options_of("m", {"prefill": (8, 32)}).variant
    assert options_of("m", {}) == Options("m")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"out": 5}, "out is 5; give a path"),
        ({"out": ""}, "out is ''; give a path"),
        ({"layers": "two"}, "layers is 'two'; give a whole number"),
        ({"layers": True}, "layers is True; give a whole number"),
        ({"seed": 1.5}, "seed is 1.5; give a whole number"),
        ({"miniature": "yes"}, "miniature is 'yes'; give True or False"),
        ({"stages": 3}, "stages is 3; give names, e.g. ['reauthored']"),
        ({"quantize": [1]}, "quantize is [1]; give recipes, e.g. ['dynamic_int8']"),
        ({"prompt": 7}, "prompt is 7; give a text, or a list of texts"),
        ({"prefill": ["a", 2]}, "prefill is ['a', 2]; give lengths, e.g. [8, 32]"),
        ({"prefill": [0]}, "--prefill 0 is not a list of lengths; give whole numbers from 1, e.g. --prefill 8,32"),
        ({"kv_layout": "other"}, "--kv-layout other is no KV layout; the layouts are default, transposed"),
        ({"timeout": "soon"}, "timeout is 'soon'; give seconds"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_one_line(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        harness.run("tiny_llama", **given)
    assert str(caught.value) == says


def test_a_model_is_a_name() -> None:
    with pytest.raises(UsageError, match=r"^model is 5; give the name of a model or of its file$"):
        harness.run(5)  # type: ignore[arg-type]


@pytest.mark.process
def test_the_package_is_imported_without_a_framework() -> None:
    code = "import harness, sys; assert harness.Run; print(sorted({'torch', 'pandas', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
