"""What a model cannot take, or cannot be made of, is refused before its stages run, in one line with the remedy.

Tokens, lengths, weights, flatbuffers and declarations that only the model itself can judge.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SPEC, TINY_LLAMA
from paths import ROOT

from harness.errors import UsageError

pytestmark = pytest.mark.slow
SMOLLM2 = ROOT / "models" / "smollm2.py"


@pytest.fixture
def checkpoint(miniature: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the miniature's weights, to be spoilt."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(miniature["checkpoint"]) / name, folder)
    return folder


Refuse = Callable[..., None]


@pytest.fixture
def refuse(prepare: Callable[..., dict[str, Any]]) -> Refuse:
    """Asserts that what follows is refused in one line that has these words."""

    def check(says: list[str], file: Path, **options: Any) -> None:
        with pytest.raises(UsageError) as refusal:
            prepare(file, **options)
        (line,) = str(refusal.value).splitlines()
        for word in says:
            assert word in line

    return check


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"tokens": [1, -1]}', ["in.jsonl:1", "token -1", "vocabulary of 512", "0 to 511"]),
        ('{"tokens": [1]}\n{"tokens": [512]}', ["in.jsonl:2", "token 512", "vocabulary of 512"]),
        (json.dumps({"tokens": [1] * 257}), ["in.jsonl:1", "257 tokens", "KV cache of 256", "kv_cache_len"]),
        ('{"tokens": [1], "decode_tail": 2}', ["in.jsonl:1", "decode_tail", "from 0 to 1"]),
        ('{"text": "words"}', ["in.jsonl:1", "needs a tokenizer", "--inputs"]),
    ],
    ids=["negative token", "token past the vocabulary", "longer than the cache", "decode tail", "no tokenizer"],
)
def test_tokens_that_the_model_cannot_take_name_the_line(
    refuse: Refuse, line: str, says: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(line)
    refuse(says, TINY_LLAMA, inputs_file=str(file))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"kv_cache_len": 16}, ["a prefill of 32 does not fit the KV cache of 16", "--kv-cache-len"]),
        ({"kv_cache_len": 64, "prefill": [8, 65]}, ["a prefill of 65", "cache of 64", "--prefill"]),
        ({"prefill": [10**12]}, ["a prefill of 1000000000000 does not fit the KV cache of 256"]),
        ({"kv_cache_len": 10**12}, ["a KV cache of 1000000000000", "max_seq_len", "--kv-cache-len"]),
    ],
    ids=["declared prefill", "prefill that is asked for", "giant prefill", "giant cache"],
)
def test_lengths_that_do_not_fit_are_refused_before_anything_is_converted(
    refuse: Refuse, asked: dict[str, Any], says: list[str]
) -> None:
    refuse(says, TINY_LLAMA, variant=asked)


def test_a_length_of_the_cache_that_is_asked_for_is_run_and_keys_a_conversion_of_its_own(
    prepare: Callable[..., dict[str, Any]], miniature: dict[str, Any]
) -> None:
    asked = prepare(TINY_LLAMA, variant={"kv_cache_len": 64})
    assert asked["kv_cache_len"] == 64
    assert asked["variant"]["kv_cache_len"] == 64
    assert 48 <= max(len(item["tokens"]) for item in asked["inputs"]) <= 64  # "long" takes three quarters of it
    assert asked["conversion_key"] != miniature["conversion_key"]
    same = prepare(TINY_LLAMA, variant={"kv_cache_len": miniature["kv_cache_len"]})
    assert (same["variant"], same["conversion_key"]) == (miniature["variant"], miniature["conversion_key"])


def test_a_prompt_needs_a_tokenizer(refuse: Refuse) -> None:
    refuse(["--prompt", "needs a tokenizer", "--inputs"], TINY_LLAMA, prompts=["words"])


def test_weights_that_are_cut_name_the_file(refuse: Refuse, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        refuse(["model.safetensors"], TINY_LLAMA, checkpoint=str(checkpoint))


def test_a_shape_that_does_not_fit_names_tensor_and_shapes(refuse: Refuse, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["intermediate_size"] += 8
    (checkpoint / "config.json").write_text(json.dumps(config))
    refuse(["model.safetensors", "mlp", "config.json asks for"], TINY_LLAMA, checkpoint=str(checkpoint))


def test_pickles_are_never_opened(refuse: Refuse, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"cos\nabort\n(tR.")  # would end this process
    refuse([str(checkpoint), "only as pickles", "save_pretrained"], TINY_LLAMA, checkpoint=str(checkpoint))


def test_a_flatbuffer_that_is_cut_anywhere_is_refused(refuse: Refuse, shipped: Path, tmp_path: Path) -> None:
    whole = shipped.read_bytes()
    file = tmp_path / "cut.tflite"
    near_the_end = [len(whole) - back for back in (1, 7, 100, 1000, 5000, 20_000, 60_000)]
    for size in [9, 40, 500, 4000, *(len(whole) * part // 12 for part in range(1, 12)), *near_the_end]:
        file.write_bytes(whole[:size])
        refuse(["cut.tflite", "again"], TINY_LLAMA, tflite=str(file))


def test_a_flatbuffer_of_another_model_is_refused(refuse: Refuse, shipped: Path, tmp_path: Path) -> None:
    refuse(["model.tflite", "give the flatbuffer of smollm2"], SMOLLM2, tflite=str(shipped), miniature=True)


@pytest.mark.parametrize(
    ("recipe", "regex", "dtype"),
    [("static_wi8_ai8", ".*", "INT8"), ("static_wi8_ai16", ".*", "INT16"), ("static_wi8_ai8", "Linear_w2", "INT8")],
)
def test_a_flatbuffer_with_integer_activations_is_refused(
    refuse: Refuse, shipped: Path, tmp_path: Path, recipe: str, regex: str, dtype: str
) -> None:
    """Also one in which a single kind of layer has them: inputs, outputs and KV cache are float32 in all of these."""
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as named

    rules = [{**rule, "regex": regex} for rule in getattr(named, recipe)()]
    made = quantizer.Quantizer(str(shipped), rules)
    file = tmp_path / "static.tflite"
    made.quantize(made.calibrate(samples(shipped))).export_model(str(file))
    says = [
        "static.tflite",
        "has integer activations",
        f"gives {dtype}",
        "not judged yet",
        "weights alone are quantised",
    ]
    refuse(says, TINY_LLAMA, tflite=str(file))


def samples(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Something for each signature: tokens and positions that count up, and an empty KV cache."""
    from ai_edge_litert.interpreter import Interpreter

    runtime = Interpreter(str(file))
    made = {}
    for name in runtime.get_signature_list():
        inputs = runtime.get_signature_runner(name).get_input_details().items()
        made[name] = [{key: _counted(entry["shape"], entry["dtype"]) for key, entry in inputs}]
    return made


def _counted(shape: Any, dtype: Any) -> np.ndarray:
    whole = np.issubdtype(dtype, np.integer)
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape) if whole else np.zeros(shape, dtype)


def test_a_flatbuffer_without_signatures_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    file = tmp_path / "bare.tflite"
    file.write_bytes(b"\x08\x00\x00\x00TFL3" + bytes(64))
    refuse(["bare.tflite", "'decode' and 'prefill_N'"], TINY_LLAMA, tflite=str(file))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("import no_such_module\n" + SPEC, ["cannot be run", "no_such_module", "fix the spec file"]),
        (SPEC + "\nTINY_LLAMA = 3\n", ["TINY_LLAMA is a int"]),
        (SPEC + "\nimport sys; sys.exit(3)\n", ["cannot be run", "SystemExit", "fix the spec file"]),
        (SPEC.replace("published=lambda: LlamaConfig(", "published=lambda: LlamaConfig(1/0,"), ["'published' fails"]),
        (SPEC.replace("config=tiny_llama.get_model_config", "config=lambda: 1/0"), ["'config' fails", "fix"]),
    ],
    ids=["import fails", "another object", "exits", "published config fails", "config fails"],
)
def test_a_spec_file_that_fails_when_run_is_named(refuse: Refuse, change: str, says: list[str], tmp_path: Path) -> None:
    file = tmp_path / "spec.py"
    file.write_text(change)
    refuse(says, file)
