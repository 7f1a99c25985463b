"""`edge-parity compare`: the same passes, a changed weight is found in its place, a quantised file has a price."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from record_factory import make_run
from small_networks import SIZE, write_network
from typer.testing import CliRunner

from harness.commands.main import app
from harness.errors import UsageError
from harness.pairs.explorer import read_view
from harness.record.record import write_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    write_network(folder / "a.tflite")
    write_network(folder / "again.tflite")
    write_network(folder / "off.tflite", off=1e-3)
    write_network(folder / "int8.tflite", quantise=True)
    return folder


def compared(*words: object) -> tuple[int, Any]:
    done = CliRunner().invoke(app, ["compare", *map(str, words), "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout)


def test_the_same_network_passes_on_every_tensor(networks: Path) -> None:
    code, found = compared(networks / "a.tflite", networks / "again.tflite")
    (signature,) = found["signatures"]
    assert (code, found["verdict"], signature["floor"], signature["over"]) == (0, "pass", "float64", 0)
    assert sum(signature["matched"].values()) == signature["tensors"] > 5
    assert {(one["stage"], one["verdict"]) for one in signature["outputs"]} == {
        ("tflite-builtin", "pass"),
        ("tflite-xnnpack", "pass"),
    }


def test_one_changed_weight_is_found_in_its_operator(networks: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, found = compared(networks / "a.tflite", networks / "off.tflite", "--html", page)
    fault = found["first_fault"]
    assert (code, found["verdict"]) == (1, "fail")
    assert (fault["a"]["kind"], fault["b"]["kind"]) == ("CONV_2D", "CONV_2D")
    assert fault["position"][-1] == 5
    assert "differs in 1 of 4096 numbers, by up to 0.001" in fault["why"]
    assert fault["why"] in page.read_text(encoding="utf-8")


def test_a_quantised_file_has_a_price_and_no_fault(networks: Path) -> None:
    code, found = compared(networks / "a.tflite", networks / "int8.tflite")
    outputs = found["signatures"][0]["outputs"]
    assert (code, found["quantised"], found["first_fault"]) == (0, ["B"], None)
    assert {one["verdict"] for one in outputs} == {"price"}
    assert all(one["snr_db"] > 20 for one in outputs)


def test_inputs_of_a_person_are_taken_and_checked(networks: Path, tmp_path: Path) -> None:
    images = tmp_path / "images.npz"
    np.savez(images, image=np.ones((1, SIZE, SIZE, 3), np.float32))
    code, found = compared(networks / "a.tflite", networks / "again.tflite", "--inputs", images)
    assert (code, found["signatures"][0]["inputs"]) == (0, str(images))
    for arrays, words in (
        ({"other": np.ones(1)}, "no array 'image'"),
        ({"image": np.ones((1, 8, 8, 3), np.float32)}, r"'image' is float32 \[1, 8, 8, 3\]"),
    ):
        np.savez(images, **arrays)  # type: ignore[arg-type]
        done = CliRunner().invoke(
            app, ["compare", str(networks / "a.tflite"), str(networks / "a.tflite"), "--inputs", str(images)],
        )  # fmt: skip
        assert isinstance(done.exception, UsageError)
        assert re.search(words, str(done.exception))


def test_what_cannot_be_compared_is_said_in_one_line(networks: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"no flatbuffer at all")
    run = tmp_path / "run"
    run.mkdir()
    write_record(run, *make_run("pass"))
    file = networks / "a.tflite"
    for other, words in (
        (tmp_path / "bad.tflite", "is no TFLite flatbuffer"),
        (run, "does not say how to get at its models again"),
        (tmp_path / "gone", "cannot be read"),
    ):
        done = CliRunner().invoke(app, ["compare", str(file), str(other)])
        assert isinstance(done.exception, UsageError)
        assert words in str(done.exception)


def test_a_difference_is_shown_in_both_graphs_and_by_a_script(networks: Path, tmp_path: Path) -> None:
    graphs, repro = tmp_path / "graphs", tmp_path / "repro"
    code, _ = compared(networks / "a.tflite", networks / "off.tflite", "--explorer", graphs, "--repro", repro)
    view = read_view(graphs)
    errors = json.loads(view.right.overlays["limit_used"])["B"]["results"]
    assert (code, errors[view.right.node]["value"] > 1, view.left.node) == (1, True, view.right.node)
    for pane in (view.left, view.right):
        nodes = {node["id"]: node["label"] for node in json.loads(pane.graph)["graphs"][0]["nodes"]}
        assert nodes[pane.node] == "conv_2d"
    script = [sys.executable, str(repro / "repro.py")]
    shown = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout.startswith("the difference shows")) == (1, True), shown.stderr
    (repro / "b.tflite").write_bytes((repro / "a.tflite").read_bytes())
    with zipfile.ZipFile(repro / "values.npz") as held:
        given = {name: held.read(name) for name in held.namelist()}
    given |= {name.replace("a.tflite/", "b.tflite/"): values for name, values in given.items()}
    with zipfile.ZipFile(repro / "values.npz", "w") as archive:
        for name, values in given.items():
            archive.writestr(name, values)
    assert subprocess.run(script, capture_output=True, check=False).returncode == 0
    done = CliRunner().invoke(
        app, ["compare", str(networks / "a.tflite"), str(networks / "a.tflite"), "--repro", str(repro)]
    )
    assert "is there already" in str(done.exception)


def traced(folder: Path, networks: Path, off: float = 0.0, **more: Any) -> Path:
    """As another program would trace the network: what it was given, and two of its tensors."""
    from ai_edge_litert.interpreter import Interpreter

    folder.mkdir()
    image = np.random.default_rng(1).standard_normal((1, SIZE, SIZE, 3)).astype(np.float32)
    interpreter = Interpreter(str(networks / "a.tflite"), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    pooled = next(entry for entry in interpreter.get_tensor_details() if entry["name"] == "AvgPool2D")
    output = interpreter.get_output_details()[0]
    scores = interpreter.get_tensor(output["index"]) + np.float32(off)
    np.savez(folder / "image.npz", image=image)
    np.savez(folder / "taps.npz", **{"AvgPool2D": interpreter.get_tensor(pooled["index"]), output["name"]: scores})
    entry = {"id": "one", "file": "taps.npz", "arrays": "image.npz", **more}
    (folder / "manifest.json").write_text(json.dumps({"format": "edge-parity-traces/1", "inputs": [entry]}))
    return folder


def test_a_file_and_a_folder_of_traces_are_compared_on_the_inputs_of_the_traces(networks: Path, tmp_path: Path) -> None:
    file, right = networks / "a.tflite", traced(tmp_path / "right", networks)
    wrong = traced(tmp_path / "wrong", networks, off=1e-5)
    code, found = compared(file, right)
    assert (code, found["signatures"][0]["floor"], found["signatures"][0]["matched"]) == (0, "float64", {"name": 2})
    assert {one["stage"] for one in found["signatures"][0]["outputs"]} == {"traces", "tflite-xnnpack"}
    for pair in ((file, wrong), (wrong, file)):
        code, found = compared(*pair)
        fault = found["first_fault"]
        assert (code, fault["b"]["tensor"], found["signatures"][0]["over"]) == (1, "Identity", 1)
        gap = fault["values"][1] - fault["values"][0]
        assert gap == pytest.approx(1e-5 if pair[0] == file else -1e-5, rel=1e-2)
    for folder, more, words in (
        ("none", {"arrays": None}, "tells neither 'tokens' nor 'arrays'"),
        ("other", {"signature": "other"}, "is for signature 'other'"),
        ("escaping", {"arrays": "../right/image.npz"}, "is not a file in that folder"),
        ("tokens", {"arrays": None, "tokens": [1]}, "token ids are for a language model"),
    ):
        place = traced(tmp_path / folder, networks, **more)
        done = CliRunner().invoke(app, ["compare", str(file), str(place)])
        assert isinstance(done.exception, UsageError), done.exception
        assert words in str(done.exception)


def test_two_runs_are_compared_as_diff_does(tmp_path: Path) -> None:
    for name, kind in (("one", "pass"), ("two", "fail")):
        (tmp_path / name).mkdir()
        write_record(tmp_path / name, *make_run(kind))
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "one"), str(tmp_path / "two")])
    assert done.exit_code == 0, done.output
    assert "reauthored" in done.output
    assert (ROOT / "docs" / "compare.md").is_file()
