"""The code of docs/python.md runs as it stands there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

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
