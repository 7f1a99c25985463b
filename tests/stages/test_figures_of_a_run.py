"""A whole run says how well its reference predicts text and what float16 could not hold, and stays green."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.record.record import read_taps
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.weights.files import WEIGHTS_FILE
from harness.weights.miniature import write_miniature

pytestmark = pytest.mark.slow

KEY = "model.layers.1.mlp.down_proj.weight"
WORDS = [f"w{number}" for number in range(200)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A miniature of TinyLlama with one number of 5e6 and a tokenizer, run on text through PyTorch alone."""
    folder, out = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("runs")
    write_miniature(load_spec(find_spec("tiny_llama")), 0, folder)
    weights = load_file(folder / WEIGHTS_FILE)
    weights[KEY][5, 7] = 5e6
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    words = [
        "run",
        "tiny_llama",
        "--checkpoint",
        str(folder),
        "--stages",
        "reauthored",
        "--prompt",
        " ".join(WORDS[5:40]),
    ]
    command = [sys.executable, "-m", "harness.commands.main", *words, "--json", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), next(out.glob("*/2*"))


def test_the_reference_is_no_better_than_guessing_and_a_miniature_is_not_blamed_for_it(ran) -> None:
    record, _ = ran
    found = record["likelihood"]
    assert [one["input"] for one in found["inputs"]] == ["prompt-1"]
    assert found["tokens"] == 34
    assert found["nll"] > 0.9 * found["chance"]
    assert not [finding for finding in record["findings"] if "NLL" in finding["what"]]


def test_what_float16_could_not_hold_is_named_in_weights_and_taps(ran) -> None:
    record, folder = ran
    said = [finding["what"] for finding in record["findings"]]
    assert f"{KEY}[5,7] is 5e6: a float16 file would hold infinity there" in said
    frame = read_taps(folder)
    assert frame[["value_min", "value_max"]].notna().all(axis=None)
    assert frame[frame["tap"] == "block.1.mlp.out"]["overflow_share"].max() > 0
    (overflow,) = [what for what in said if "float16 arithmetic overflows here" in what]
    assert "block.1." in overflow
    assert "mlp.out" in overflow
    (square,) = [what for what in said if "its square" in what]
    assert square.startswith("block.1.out, the input of an RMS norm, reaches ")
