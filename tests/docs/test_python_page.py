"""The code of docs/python.md runs as it stands there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

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

    from harness.pairs.folders import compare_folders

    (block,) = BLOCK.findall((ROOT / "docs" / "traces.md").read_text(encoding="utf-8"))
    assert len(block.splitlines()) <= 36
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, "docs/traces.md", "exec"), namespace)
    for name in ("a", "b"):
        namespace["trace"](str(model().flatbuffer), list(range(1, 9)), tmp_path / name)
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert found.exit_code == 0
    assert {"logits", "block.1.cache.k"} <= {one.name for one in found.signatures[0].outputs}
