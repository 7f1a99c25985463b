"""What a checkpoint folder is, is said in one line before anything loads: an adapter, quantised, of other sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from header_files import header_of, write_file

from harness.errors import UsageError
from harness.weights.files import stored_tensors
from harness.weights.key_names import names_text
from harness.weights.kinds import refuse_absurd_sizes, refuse_adapter, refuse_by_headers
from harness.weights.sources import check_source

LAYERS = 22
LLAMA = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def tensors(dtype: str = "BF16") -> dict[str, tuple[str, list[int]]]:
    found: dict[str, tuple[str, list[int]]] = {"model.embed_tokens.weight": ("BF16", [64, 16])}
    for layer in range(LAYERS):
        found[f"model.layers.{layer}.input_layernorm.weight"] = ("BF16", [16])
        found[f"model.layers.{layer}.mlp.down_proj.weight"] = (dtype, [16, 32])
    return found


def looked_at(folder: Path, config: dict[str, Any], held: dict[str, tuple[str, list[int]]]) -> None:
    write_file(folder / "model.safetensors", header_of(held))
    found = stored_tensors(folder)
    refuse_by_headers(folder, config, found)


def refused(folder: Path, config: dict[str, Any], held: dict[str, tuple[str, list[int]]]) -> str:
    with pytest.raises(UsageError) as caught:
        looked_at(folder, config, held)
    assert len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64"])
def test_float_weights_of_the_configs_sizes_are_taken(tmp_path: Path, dtype: str) -> None:
    masks: dict[str, tuple[str, list[int]]] = {
        "model.layers.0.attn.bias": ("U8", [1, 1, 8, 8]), "model.position_ids": ("I64", [1, 8]), "x": ("BOOL", [8, 8]),
    }  # fmt: skip
    looked_at(tmp_path, LLAMA, {**tensors(dtype), **masks})


@pytest.mark.parametrize("with_config", [False, True])
def test_an_adapter_is_said_to_need_merging(tmp_path: Path, with_config: bool) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "a/b"}))
    if with_config:  # transformers would add the adapter to the weights beside it
        (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(UsageError, match=r"is a PEFT adapter \(LORA, for a/b\): merge it first"):
        check_source(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("[1]")
    with pytest.raises(UsageError, match="is a PEFT adapter"):
        refuse_adapter(tmp_path)


@pytest.mark.parametrize(
    ("settings", "dtype", "said"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "F8_E4M3", "quantised with fp8"),
        ({"quantization_config": {"load_in_4bit": True}}, "U8", "quantised with bitsandbytes, 4 bit"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "I8", "bitsandbytes, 8 bit"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "I32", "quantised with gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, "I32", "quantised with awq"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "U8", "quantised with mxfp4"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "I32", "with compressed-tensors"),
        ({"text_config": {"quantization_config": {"quant_method": "torchao"}}}, "I8", "with torchao"),
        ({"compression_config": {"quant_method": "sparseml"}}, "U8", "with sparseml"),
        ({}, "F8_E5M2", "model.layers.0.mlp.down_proj.weight is F8_E5M2"),
    ],
)
def test_quantised_weights_are_said_to_need_dequantising(
    tmp_path: Path, settings: dict[str, Any], dtype: str, said: str
) -> None:
    message = refused(tmp_path, {**LLAMA, **settings}, tensors(dtype))
    assert said in message
    assert "dequantise it" in message


def test_a_config_that_still_says_quantised_of_float_weights_is_what_is_wrong(tmp_path: Path) -> None:
    message = refused(tmp_path, {**LLAMA, "quantization_config": {"quant_method": "fp8"}}, tensors())
    assert "remove 'quantization_config'" in message
    assert "all floats" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 100_000}, ["num_hidden_layers 100000", "no model has"]),
        ({"num_hidden_layers": 23}, ["23 layers, the weights have 22", "model.layers.22 is not there"]),
        ({"num_hidden_layers": 10**4000}, ["num_hidden_layers 1000"]),
        ({"hidden_size": 10**9}, ["hidden_size 1000000000"]),
        ({"hidden_size": 100_000}, ["vocab_size x hidden_size", "6,400,000"]),
        ({"vocab_size": 10**8}, ["1,600,000,000 numbers"]),
        ({"intermediate_size": 10**6}, ["intermediate_size x hidden_size"]),
        ({"num_attention_heads": 0}, ["num_attention_heads 0"]),
        ({"num_key_value_heads": -1}, ["num_key_value_heads -1"]),
        ({"head_dim": 0.5}, ["head_dim 0.5"]),
        ({"num_hidden_layers": "22"}, ["num_hidden_layers '22'"]),
        ({"vocab_size": True}, ["vocab_size True"]),
        ({"text_config": {**LLAMA, "num_hidden_layers": 100_000}}, ["num_hidden_layers 100000"]),
    ],
)  # fmt: skip
def test_sizes_that_the_weights_cannot_have_are_refused(
    tmp_path: Path, change: dict[str, Any], said: list[str]
) -> None:
    message = refused(tmp_path, {**LLAMA, **change}, tensors())
    assert all(part in message for part in said), message


def test_a_layer_that_is_missing_in_the_middle_is_named(tmp_path: Path) -> None:
    held = {name: what for name, what in tensors().items() if ".layers.7." not in name}
    assert "22 layers, the weights have 21 (model.layers.7 is not there)" in refused(tmp_path, LLAMA, held)


def test_a_config_that_has_transformers_load_another_file_is_refused(tmp_path: Path) -> None:
    """The reference would run on other weights than those that are read here."""
    write_file(tmp_path / "other.safetensors", header_of(tensors()))
    message = refused(tmp_path, {**LLAMA, "transformers_weights": "other.safetensors"}, tensors())
    assert "'transformers_weights': 'other.safetensors'" in message
    looked_at(tmp_path, {**LLAMA, "transformers_weights": None}, tensors())


def test_a_config_by_itself_is_held_to_what_models_have(tmp_path: Path) -> None:
    refuse_absurd_sizes(tmp_path, LLAMA, {})
    with pytest.raises(UsageError, match="num_hidden_layers 100000"):
        refuse_absurd_sizes(tmp_path, {**LLAMA, "num_hidden_layers": 100_000}, {})


def test_like_names_are_said_once() -> None:
    scales = [f"model.layers.{i}.self_attn.k_scale" for i in range(22)]
    assert names_text(scales) == "model.layers.{0-21}.self_attn.k_scale"
    assert names_text(["lm_head.weight", *scales[3:5], scales[9]]) == (
        "lm_head.weight, model.layers.{3-4, 9}.self_attn.k_scale"
    )
    whole = [f"model.layers.{i}.{part}.weight" for i in (20, 21) for part in "abcdefghi"]
    assert names_text(whole) == "model.layers.{20-21}.a.weight, ... (18 tensors)"
    assert names_text(["model.layers.7.a.weight"]) == "model.layers.7.a.weight"
    assert names_text(f"part{i}.weight" for i in range(9)).endswith(" and 5 more such groups")
