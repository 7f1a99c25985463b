"""`edge-parity audit`: verdicts, exit codes and JSON, from configs alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from harness.audit.report import Audit
from harness.record.record import Finding
from harness.render.audit import print_audits


def audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "harness.commands.main", "audit", *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a config.json and nothing else: the published one of TinyLlama with another epsilon."""
    from harness.spec.find import find_spec
    from harness.spec.load import load_spec

    config = load_spec(find_spec("tiny_llama")).published()
    config.rms_norm_eps = 1e-6
    config.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_several_models_are_audited_in_the_order_named_and_the_worst_decides() -> None:
    ended = audit("falcon", "tiny_llama", "--json")
    assert ended.returncode == 1
    first, second = json.loads(ended.stdout)
    assert (first["model"], first["verdict"]) == ("falcon", "fail")
    assert [(f["field"], f["severity"]) for f in first["findings"]] == [("alibi", "error")]
    assert (second["model"], second["verdict"], second["findings"]) == ("tiny_llama", "pass", [])


@pytest.mark.slow
def test_a_folder_with_only_a_config_is_enough(checkpoint: Path) -> None:
    ended = audit("tiny_llama", "--checkpoint", str(checkpoint))
    assert ended.returncode == 1
    assert ended.stdout.startswith("FAIL  tiny_llama  3 errors, against")
    row = next(line for line in ended.stdout.splitlines() if "final_norm.eps" in line)
    assert "1e-06" in row
    assert "1e-05" in row


@pytest.mark.further
def test_a_model_that_agrees_is_one_line(tmp_path: Path) -> None:
    ended = audit("tiny_llama")
    assert ended.returncode == 0
    assert ended.stdout == "pass  tiny_llama  every field agrees, against TinyLlama/TinyLlama-1.1B-Chat-v1.0\n"


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no MODEL named"),
        (("tiny_llma",), "did you mean 'tiny_llama'"),
        (("tiny_llama", "--checkpoint", "no/such"), "not a folder"),
        (("tiny_llama", "smollm", "--checkpoint", "."), "name one model"),
    ],
)
def test_bad_input_is_one_line_that_names_the_thing(arguments: tuple[str, ...], words: str) -> None:
    ended = audit(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_config_that_transformers_cannot_build_is_one_line(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"model_type": "no_such_architecture"}')
    ended = audit("tiny_llama", "--checkpoint", str(checkpoint))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "no_such_architecture" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_finding_is_shown_with_both_values_or_in_words() -> None:
    from rich.console import Console

    findings = [
        Finding(
            kind="config", severity="error", what="rope.base ...", field="rope.base", blocks=[0, 1, 2, 7],
            published="10000", reauthored="500", modules={"hf": "model.layers.{}.self_attn", "reauthored": "blocks.{}"},
        ),
        Finding(kind="weights", severity="error", what="lm_head.weight of the checkpoint is dropped"),
        Finding(kind="config", severity="warning", what="residual_multiplier is not audited: ...", field="x"),
    ]  # fmt: skip
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_audits([Audit(model="m", against="org/m", findings=findings), Audit(model="n", error="no config")], console)
    text = console.export_text()
    shown = (
        "FAIL  m  2 errors, 1 warning, against org/m", "0-2, 7", "10000", "500", "model.layers.{}.self_attn",
        "lm_head.weight of the checkpoint is dropped", "residual_multiplier", "NOT AUDITED  n  no config",
    )  # fmt: skip
    assert [part for part in shown if part not in text] == []
