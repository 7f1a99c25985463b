"""The code of docs/python.md runs as it stands there."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from paths import ROOT
from watching import Watcher

if TYPE_CHECKING:
    from harness.bench.workbench import Bench

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## (.+?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = {title: BLOCK.findall(body) for title, body in SECTION.findall(PAGE)}


def run(title: str, name: str = "page") -> str:
    """The blocks of a section, one after the other in one namespace, and what they print."""
    namespace: dict[str, object] = {"__name__": name}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in SECTIONS[title]:
            exec(compile(block, f"docs/python.md, {title}", "exec"), namespace)
    return printed.getvalue()


@pytest.mark.miniature
def test_two_functions() -> None:
    said = run("Two functions, or two modules: `assert_parity`")
    assert "likely: with an epsilon of 1e-05 the reference gives what the candidate gives" in said


@pytest.mark.slow
def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = SECTIONS["A run"]
    said = run("A run", name="__main__")
    assert len(blocks) == 2
    assert said.startswith("pass reports/tiny_llama/")
    assert "(1, " in said


@pytest.mark.slow
def test_a_device_s_program_writes_traces_that_are_read(tmp_path: Path) -> None:
    """The example of docs/traces.md, on a miniature's flatbuffer."""
    from quantised_files import model

    from harness.pairs.compare import FileOptions
    from harness.pairs.mixed import compare_any, given

    (block,) = BLOCK.findall((ROOT / "docs" / "traces.md").read_text(encoding="utf-8"))
    assert len(block.splitlines()) <= 36
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, "docs/traces.md", "exec"), namespace)
    for name in ("a", "b"):
        namespace["trace"](str(model().flatbuffer), list(range(1, 9)), tmp_path / name)
    file, a, b = (given(str(place), tmp_path) for place in (model().flatbuffer, tmp_path / "a", tmp_path / "b"))
    found = compare_any(a, b, FileOptions(), Watcher())
    assert found.exit_code == 0
    assert {"logits", "block.1.cache.k"} <= {one.name for one in found.signatures[0].outputs}

    found = compare_any(file, b, FileOptions(), Watcher())  # the file is run on the tokens of the traces
    assert (found.exit_code, found.signatures[0].floor) == (0, "float64")
    assert {(one.name, one.stage) for one in found.signatures[0].outputs} >= {
        ("logits", "traces"),
        ("logits", "tflite-xnnpack"),
        ("block.1.cache.k", "traces"),
    }

    from harness.pairs.importing import import_traces
    from harness.pairs.trace_folder import TraceFolder

    run_folder, tokens = kept_run(model(), tmp_path / "reports" / "tiny_llama" / "20261114-093012-a1b2")
    namespace["trace"](str(model().flatbuffer), tokens, tmp_path / "device")
    _, record = import_traces([TraceFolder(tmp_path / "device")], run_folder)
    assert (record.verdict, record.hops[-1].name) == ("pass", "reauthored->device")
    with np.load(tmp_path / "device" / "long.npz") as held:
        taps = dict(held)
    taps["block.1.cache.v"] = taps["block.1.cache.v"] + np.float32(0.01)
    np.savez(tmp_path / "device" / "long.npz", **taps)
    _, record = import_traces([TraceFolder(tmp_path / "device")], run_folder)
    assert record.first_fault is not None
    assert (record.exit_code, record.first_fault.tap) == (1, "block.1.cache.v")


def kept_run(bench: Bench, folder: Path) -> tuple[Path, list[int]]:
    """A run with the traces of a bench, of one of its inputs that a prefill takes whole, and that input's tokens."""
    from record_factory import make_run

    from harness.record.record import Input, write_record
    from harness.store.trace import export_npy

    item = max((one for one in bench.prepared.inputs if len(one.tokens) <= 32), key=lambda one: len(one.tokens))
    for stage in ("oracle", "hf", "hf.order1", "hf.order2", "reauthored"):
        shutil.copytree(bench.sound / stage / item.id, folder / "traces" / stage / "long")
    export_npy(folder / "traces")
    record, frame = make_run()
    inputs = [Input(id="long", tokens=len(item.tokens), token_ids=item.tokens)]
    update = {"model": "tiny_llama", "inputs": inputs, "taps": bench.prepared.modules, "cases": []}
    write_record(folder, record.model_copy(update=update), frame[frame["input"] == "long"])
    return folder, item.tokens
