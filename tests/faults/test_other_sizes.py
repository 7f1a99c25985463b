"""A size that the re-authored config has wrong is charged to the config, and no stage of the reference breaks off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from generative import generative_main
from paths import ROOT

from harness.jobs.job import Dimensions
from harness.locate.owners import ownership
from harness.names.codes import FindingCode
from harness.record.record import Fault, Finding

TINY_LLAMA = (ROOT / "models" / "tiny_llama.py").read_text(encoding="utf-8")
WRONG = """
def wrong_config():
    config = tiny_llama.get_model_config()
    {change}
    return config


TINY_LLAMA"""


def spec(folder: Path, change: str) -> Path:
    """TinyLlama with a re-authored config that a line of Python changes."""
    text = TINY_LLAMA.replace("\nTINY_LLAMA", WRONG.replace("{change}", change), 1)
    file = folder / "wrong.py"
    file.write_text(text.replace("config=tiny_llama.get_model_config", "config=wrong_config"))
    return file


def run(folder: Path, change: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, record, stderr) of its miniature, which is converted nowhere."""
    command = [sys.executable, "-m", "harness.commands.main", "run", str(spec(folder, change)), "--miniature", "--json"]
    done = subprocess.run(
        [*command, "--stages", "reauthored", "--out", "runs"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "tap", "field", "says"),
    [
        ("config.block_configs.attn_config.num_query_groups = 2", "block.0.attn.k", "kv_heads", "shapes differ: "),
        pytest.param("config.num_layers = 21", "final_norm", "layers", "excess", marks=pytest.mark.further),
    ],
    ids=["KV heads", "layers"],
)
def test_a_wrong_size_that_loads_fails_at_the_first_tap_it_shows_at_and_is_the_configs(
    tmp_path: Path, change: str, tap: str, field: str, says: str
) -> None:
    code, record, said = run(tmp_path, change)
    assert (code, {stage["status"] for stage in record["stages"]}) == (1, {"ok"}), said
    fault = record["first_fault"]
    assert (fault["tap"], fault["owner"]) == (tap, "config")
    assert says in fault["reason"]
    assert field in [finding["field"] for finding in record["findings"] if finding["severity"] == "error"]
    assert "crashed" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("config.block_configs.ff_config.intermediate_size = 5504", "MLP width"),
        ("config.vocab_size = 32100", "vocabulary"),
        pytest.param("config.num_layers = 23", "layers", marks=pytest.mark.further),
        pytest.param("config.embedding_dim = 1024", "hidden size", marks=pytest.mark.further),
        pytest.param("config.block_configs.attn_config.head_dim = 32", "head width", marks=pytest.mark.further),
        pytest.param("config.block_configs.attn_config.num_heads = 16", "heads", marks=pytest.mark.further),
    ],
    ids=["MLP width", "vocabulary", "layers", "hidden size", "head width", "heads"],
)
def test_a_wrong_size_that_cannot_load_is_one_line_that_names_it(tmp_path: Path, change: str, says: str) -> None:
    code, record, said = run(tmp_path, change)
    (line,) = [line for line in said.splitlines() if line.startswith("edge-parity:")]
    assert (code, record) == (2, {})
    assert f"tiny_llama: the re-authored config has other sizes than the published one ({says} " in line
    assert line.endswith("fix 'config' in the model's spec file")
    assert "Traceback" not in said


def test_the_reference_is_read_by_its_own_heads_and_the_candidate_by_its_own() -> None:
    sizes = Dimensions(blocks=2, heads=8, kv_heads=2, head_dim=16, hidden=128, vocab=600)
    assert (sizes.hf_layout_of(1).kv_heads, sizes.hf_layout_of(1).head_dim, sizes.tokens) == (2, 16, 600)
    other = sizes.model_copy(update={"hf_heads": [(8, 4), (4, 4)], "hf_head_dim": 32, "hf_vocab": 512})
    assert [(other.hf_layout_of(block).heads, other.hf_layout_of(block).kv_heads) for block in (0, 1)] == [
        (8, 4),
        (4, 4),
    ]
    assert (other.hf_layout_of(0).head_dim, other.layout_of(0).head_dim, other.layout_of(0).kv_heads) == (32, 16, 2)
    assert other.tokens == 512  # no version is given a token that it does not know


def test_weights_that_a_wrong_size_keeps_out_are_not_what_is_at_fault() -> None:
    module = "transformer_blocks.0.atten_func.qkv_projection"
    fault = Fault(
        hop="hf->reauthored", tap="block.0.attn.k", block=0, input="long", excess=9.0, modules={"reauthored": module}
    )
    weights = Finding(
        kind="weights",
        code=FindingCode.PARAMETER_DIFFERS,
        severity="error",
        what="in words",
        parameter=f"{module}.weight",
    )
    size = Finding(kind="config", severity="error", what="kv_heads: published 4, re-authored 2", field="kv_heads")
    bias = Finding(kind="config", severity="error", what="qkv_bias: published no, re-authored yes", field="qkv_bias")
    assert ownership(fault, [fault], [weights, size], {}).owner == "config"
    assert ownership(fault, [fault], [weights, bias], {}).owner == "weights"


@pytest.mark.slow
def test_of_every_model_here_the_reference_is_read_as_the_re_authored_model_is() -> None:
    from harness.pipeline.dimensions import dimensions_of
    from harness.spec.find import find_spec
    from harness.spec.load import load_spec
    from harness.spec.route import route_of
    from harness.weights.configs import published_config

    for name in generative_main():
        model = load_spec(find_spec(name))
        own = route_of(model).model(model, miniature=False)
        sizes = dimensions_of(model, own, published_config(model))
        assert (name, sizes.hf_heads, sizes.hf_head_dim, sizes.hf_vocab) == (name, [], None, None)
