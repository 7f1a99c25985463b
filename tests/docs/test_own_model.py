"""The page's model of one's own, word for word: saved as the page says, run as the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from harness.align.modules import declared_modules
from harness.errors import UsageError

PAGE = (ROOT / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## A model of your own\n")[1].split("\n## ")[0]


def saved_as_the_page_says(folder: Path) -> list[str]:
    """Every Python block of the section under the name that stands before it; the words of the command."""
    for text, code in re.findall(r"([^\n]+):\n\n```python\n(.*?)```", SECTION, re.S):
        (folder / re.findall(r"`([\w.]+\.py)`", text)[-1]).write_text(code)
    (command,) = re.findall(r"^\$ edge-parity (.*)$", SECTION, re.M)
    return str(command).split()


def run(words: list[str], folder: Path) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "-m", "harness.commands.main", *words, "--json", "--out", "runs"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return done.returncode, json.loads(done.stdout or "{}")


@pytest.mark.slow
def test_the_model_of_the_page_passes_with_every_tap_and_in_the_flatbuffer(tmp_path: Path) -> None:
    words = saved_as_the_page_says(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own_llama.py", "own_spec.py"]
    code, record = run(words[: words.index("--stages")], tmp_path)
    hop = record["hops"][0]  # type: ignore[index]
    assert (code, record["verdict"], len(record["hops"])) == (0, "pass", 3)  # type: ignore[arg-type]
    assert (hop["coverage"], hop["taps_missing"]) == (1.0, 0)
    assert hop["taps_compared"] == 39
    assert not [finding for finding in record["findings"] if finding["severity"] == "error"]  # type: ignore[attr-defined]


@pytest.mark.further
def test_a_mistake_in_it_is_found_at_its_module(tmp_path: Path) -> None:
    words = saved_as_the_page_says(tmp_path)
    model = tmp_path / "own_llama.py"
    model.write_text(model.read_text().replace("ActivationType.SILU", "ActivationType.GELU"))
    code, record = run(words, tmp_path)
    fault = record["first_fault"]
    assert (code, fault["tap"]) == (1, "block.0.mlp.act")  # type: ignore[index]
    assert fault["modules"]["reauthored"] == "blocks.0.down"  # type: ignore[index]


@pytest.mark.parametrize(
    ("alignment", "says"),
    [
        ({"layer": "blocks.{}", "final_norm": "norm", "atn.q": "blocks.{}.q"}, "unknown point 'atn.q'"),
        ({"layer": "blocks", "final_norm": "norm"}, "'layer' is 'blocks'; give a module path with {}"),
        ({"layer": "blocks.{}", "final_norm": "norm.{}"}, "without {}"),
        ({"attn.q": "blocks.{}.q"}, "lacks layer and final_norm"),
    ],
)
def test_an_alignment_that_cannot_be_meant_says_so(alignment: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        declared_modules(alignment)
