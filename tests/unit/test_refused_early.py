"""What command line and declaration tell to be impossible is refused before anything is prepared."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.commands.main import app
from harness.errors import UsageError
from harness.names.recipes import Recipe
from harness.names.variant import VariantOptions
from harness.pipeline import generation_run
from harness.pipeline.early import check_declared_layers, check_early, check_room
from harness.pipeline.options import Options, check
from harness.spec.find import describe, find_spec
from harness.spec.sizes import longest_declared

SPEC = """
from harness import GenerativeModel
MODEL = GenerativeModel(
    name="mine", hf_id="a/b", config=None, model_class=None, tensor_names=None, published=None{more}
)
"""


def refused(tmp_path: Path, more: str = "", **options: Any) -> str:
    """What a run of a declaration is refused with; empty where it is not."""
    spec = tmp_path / "mine.py"
    spec.write_text(SPEC.replace("{more}", more))
    try:
        check(Options(model=f"{spec}:MODEL", **options))
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ("", {"decode": 256}, "--decode 256 does not fit the KV cache of 256 positions"),
        ("", {"decode": 255}, ""),
        ("", {"generate": 257}, "--generate 257 does not fit the KV cache of 256 positions"),
        ("", {"generate": 257, "generate_option": "--tokens"}, "give a smaller --tokens"),
        ("", {"generate": 256}, ""),
        (", kv_cache_len=512", {"decode": 256}, ""),
        (", kv_cache_len=512", {"decode": 256, "variant": VariantOptions(kv_cache_len=64)}, "KV cache of 64"),
        (", kv_cache_len=some()", {"decode": 10**6}, ""),
        (", variant='kv-cache=4096'", {"decode": 1000}, ""),
        ("", {"variant": VariantOptions(prefill=(8, 300))}, "a prefill of 300 does not fit the KV cache of 256"),
        ("", {"variant": VariantOptions(kv_cache_len=16)}, "a prefill of 32 does not fit the KV cache of 16"),
        (", prefill=(8,)", {"variant": VariantOptions(kv_cache_len=16)}, ""),
        ("", {"prompts": ("hi",)}, "--prompt needs a tokenizer"),
        ("", {"prompts": ("hi",), "chat": True}, "--chat needs a tokenizer"),
        (", weights=some()", {"prompts": ("hi",)}, ""),
        (", weights=some()", {"prompts": ("hi",), "miniature": True}, "--prompt needs a tokenizer"),
        ("", {"prompts": ("hi",), "checkpoint": "some/hub-id"}, ""),
    ],
)
def test_what_cannot_be_is_refused_as_it_is_read(more: str, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    told = refused(tmp_path, more, **options)
    assert said in told
    assert bool(said) == bool(told)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "hello"}', ':1: "text" needs a tokenizer'),
        ('{"turns": [{"tokens": [1], "reply": "x"}, {"tokens": [3]}]}', ":1: turn 1: reply: text needs a tokenizer"),
        ('{"turns": [{"tokens": [1], "reply": [2]}, {"tokens": [3]}]}', ""),
        ('{"tokens": [1, 2]}', ""),
    ],
)
def test_text_in_a_file_is_refused_where_there_is_no_tokenizer(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text(line + "\n")
    told = refused(tmp_path, inputs_file=file, miniature=True)
    assert said in told
    assert bool(said) == bool(told)


def test_a_file_of_text_is_refused_where_there_is_no_tokenizer(tmp_path: Path) -> None:
    sample = tmp_path / "sample.txt"
    sample.write_text("some words")
    assert "--text needs a tokenizer" in refused(tmp_path, text=sample, miniature=True)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    assert "--prompt" not in refused(tmp_path, prompts=("hi",), checkpoint=str(folder))


def test_a_file_has_a_cache_of_its_own() -> None:
    """Nothing is known of it before it is read; once it is prepared, it is."""
    with pytest.raises(UsageError, match="--generate 65 does not fit the KV cache of 64 positions"):
        check_room(Options(model="mine", generate=65), 64)


@pytest.mark.miniature
@pytest.mark.parametrize(
    ("change", "said"),
    [({"operation": "FOO"}, "refuses it (Unsupported operation FOO"), ({}, "")],
    ids=["wrong", "right"],
)
def test_rules_that_the_quantiser_refuses_are_refused(change: dict[str, str], said: str, tmp_path: Path) -> None:
    weight = {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"}
    config = {"weight_tensor_config": weight, "compute_precision": "INTEGER"}
    rule = {"regex": ".*", "operation": "FULLY_CONNECTED", "algorithm_key": "min_max_uniform_quantize"}
    recipe = Recipe("mine", json.dumps([{**rule, "op_config": config, **change}]))
    told = refused(tmp_path, quantize=(recipe,))
    assert said in told
    assert bool(said) == bool(told)


@pytest.mark.files  # a run makes its own temporary folder
@pytest.mark.parametrize(("typed", "asked"), [([], 64), (["--kv-cache-len", "40"], 40), (["--tokens", "50"], 50)])
def test_generate_asks_for_no_more_by_itself_than_the_cache_has_room_for(
    typed: list[str], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = []

    def stop(options: Options, progress: object) -> None:
        wanted.append(options.generate)
        raise UsageError("seen")

    monkeypatch.setattr(generation_run, "generate", stop)
    done = CliRunner().invoke(app, ["generate", "tiny_llama", "--miniature", *typed])
    assert wanted == [asked], done.output


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("tiny_llama", {"layers": 23}, "--layers 23: tiny_llama has 22 layers; give at most as many"),
        ("tiny_llama", {"layers": 22}, ""),
        ("tiny_llama", {"layers": 23, "checkpoint": "some/hub-id"}, ""),
        ("qwen2_5_3b", {"layers": 37}, "qwen2_5_3b has 36 layers"),
        ("gpt2", {"layers": 13}, "gpt2 has 12 layers"),
        (
            "tiny_llama",
            {"variant": VariantOptions(kv_cache_len=2049)},
            "2049 positions is longer than tiny_llama computes",
        ),
        ("tiny_llama", {"variant": VariantOptions(kv_cache_len=2048)}, ""),
        ("smollm2", {"variant": VariantOptions(kv_cache_len=8193)}, "whose max_seq_len is 8192"),
        ("smollm2", {"variant": VariantOptions(kv_cache_len=8192)}, ""),
    ],
)
def test_what_a_model_has_not_is_refused_as_it_is_read(model: str, options: dict[str, Any], said: str) -> None:
    try:
        check_early(Options(model=model, miniature=True, **options), find_spec(model))
        told = ""
    except UsageError as error:
        told = str(error)
    assert said in told
    assert bool(said) == bool(told)


def test_layers_of_a_folder_are_those_of_its_config(tmp_path: Path) -> None:
    options = Options(model="tiny_llama", layers=3, checkpoint=str(tmp_path))
    for config, said in (
        ({"model_type": "llama", "num_hidden_layers": 2}, f"--layers 3: {tmp_path} has 2 layers"),
        ({"model_type": "gemma3", "num_hidden_layers": 9, "text_config": {"num_hidden_layers": 2}}, "has 2 layers"),
        ({"model_type": "llama", "num_hidden_layers": 3}, ""),
        ({"model_type": "openelm", "num_transformer_layers": 2}, ""),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UsageError, match=said) if said else nullcontext():
            check_declared_layers(options, find_spec("tiny_llama"))


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ("lambda: replace(example(), max_seq_len=64)", 64),
        ("wraps(example)(lambda: replace(example(), max_seq_len=64))", 64),
        ("lambda: replace(example(), max_seq_len=2 * 32)", None),
        ("lambda: wider(replace(example(), max_seq_len=64))", None),
        ("example.config", None),
        ("tiny_llama.get_model_config", 2048),
        ("tiny_llama.no_such_function", None),
        ("named.get_model_config", 2048),
        ("partial(example, max_seq_len=64)", None),
    ],
)
def test_how_many_positions_are_computed_is_read_where_it_is_said_once(
    config: str, length: int | None, tmp_path: Path
) -> None:
    spec = tmp_path / "mine.py"
    spec.write_text(
        "from litert_torch.generative.examples.tiny_llama import tiny_llama, tiny_llama as named\n"
        + SPEC.replace("config=None", f"config={config}").replace("{more}", "")
    )
    (ref,) = describe(spec)
    assert longest_declared(ref) == length
