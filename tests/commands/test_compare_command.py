"""`edge-parity compare`: the same passes, a changed weight is found in its place, a quantised file has a price."""

from __future__ import annotations

import json
import re
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
        (run, "give two .tflite files, or two runs"),
        (tmp_path / "gone", "cannot be read"),
    ):
        done = CliRunner().invoke(app, ["compare", str(file), str(other)])
        assert isinstance(done.exception, UsageError)
        assert words in str(done.exception)


def test_two_runs_are_compared_as_diff_does(tmp_path: Path) -> None:
    for name, kind in (("one", "pass"), ("two", "fail")):
        (tmp_path / name).mkdir()
        write_record(tmp_path / name, *make_run(kind))
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "one"), str(tmp_path / "two")])
    assert done.exit_code == 0, done.output
    assert "reauthored" in done.output
    assert (ROOT / "docs" / "compare.md").is_file()
