"""A miniature keeps what makes a model itself, and its two versions agree when the published configs do."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.families import Sizes, sizes_of
from harness.miniature import WINDOW, shrink, write_miniature
from harness.spec import GenerativeModel, find_spec, load_spec
from harness.weights import load_reauthored

POSITIONS = 64


def registered(name: str) -> GenerativeModel:
    return load_spec(find_spec(name))


def gemma2() -> GenerativeModel:
    from litert_torch.generative.examples.gemma import gemma2
    from transformers import Gemma2Config

    published = lambda: Gemma2Config(  # noqa: E731
        vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
        num_attention_heads=8, num_key_value_heads=4, head_dim=256,
    )  # fmt: skip
    names = gemma2.TENSOR_NAMES_SEP_QKV
    return GenerativeModel("gemma2", "google/gemma-2-2b", gemma2.get_model_config_2b, gemma2.Gemma2, names, published)


def gemma3() -> GenerativeModel:
    from litert_torch.generative.examples.gemma3 import decoder
    from transformers import Gemma3TextConfig

    published = lambda: Gemma3TextConfig(  # noqa: E731
        vocab_size=262144, hidden_size=1152, intermediate_size=6912, num_hidden_layers=26, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, sliding_window=512,
    )  # fmt: skip
    names = decoder.TENSOR_NAMES_SEP_QKV
    config = decoder.get_decoder_config_1b
    return GenerativeModel("gemma3", "google/gemma-3-1b-it", config, decoder.Decoder, names, published)


def phi2() -> GenerativeModel:
    from litert_torch.generative.examples.phi import phi2
    from transformers import PhiConfig

    published = lambda: PhiConfig(  # noqa: E731
        vocab_size=51200, hidden_size=2560, intermediate_size=10240, num_hidden_layers=32,
        num_attention_heads=32, partial_rotary_factor=0.4,
    )  # fmt: skip
    return GenerativeModel("phi2", "microsoft/phi-2", phi2.get_model_config, phi2.Phi2, phi2.TENSOR_NAMES, published)


def qwen25() -> GenerativeModel:
    from litert_torch.generative.examples.qwen import qwen
    from transformers import Qwen2Config

    published = lambda: Qwen2Config(  # noqa: E731
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=True,
    )  # fmt: skip
    names, config = qwen.TENSOR_NAMES, qwen.get_0_5b_model_config
    return GenerativeModel("qwen25", "Qwen/Qwen2.5-0.5B-Instruct", config, qwen.Qwen, names, published)


MODELS: dict[str, Callable[[], GenerativeModel]] = {
    "tiny_llama": lambda: registered("tiny_llama"),
    "smollm2": lambda: registered("smollm2"),
    "gemma2": gemma2,
    "gemma3": gemma3,
    "phi2": phi2,
    "qwen25": qwen25,
}


def hf_outputs(folder: Path, ids: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(ids, output_attentions=True)


def tokens() -> Any:
    import torch

    return torch.randint(0, 512, (1, POSITIONS), generator=torch.Generator().manual_seed(7))


def reauthored_logits(model: GenerativeModel, folder: Path, config: Any, ids: Any) -> Any:
    import torch
    from litert_torch.generative.layers import kv_cache

    network = load_reauthored(model, folder, config, 128)
    cache = kv_cache.KVCache.from_model_config(128, config)
    with torch.no_grad():
        return network(ids, torch.arange(POSITIONS), cache)["logits"]


@pytest.mark.parametrize("name", MODELS)
def test_the_two_versions_of_a_miniature_agree(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    write_miniature(model, 3, tmp_path)
    _, config = shrink(model)
    ids = tokens()
    expected = hf_outputs(tmp_path, ids).logits
    error = (reauthored_logits(model, tmp_path, config, ids) - expected).norm() / expected.norm()
    assert error < 1e-5


@pytest.mark.parametrize("name", ["tiny_llama", "gemma3"])
def test_attention_in_a_miniature_is_far_from_uniform(name: str, tmp_path: Path) -> None:
    import torch

    write_miniature(MODELS[name](), 3, tmp_path)
    for probabilities in hf_outputs(tmp_path, tokens()).attentions:
        entropy = -(probabilities * probabilities.clamp_min(1e-30).log()).sum(-1)[..., 1:]
        uniform = (probabilities > 0).sum(-1)[..., 1:].log()
        share = float(torch.mean(entropy / uniform))
        assert 0.2 < share < 0.8


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_one_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    model, digests = registered("tiny_llama"), []
    for index, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(index)
        folder.mkdir()
        write_miniature(model, seed, folder)
        digests.append(digest(folder))
    assert digests[0] == digests[1] != digests[2]


def test_no_norm_is_all_ones_and_no_bias_all_zeros(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_miniature(phi2(), 0, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith(".bias") for name in tensors)
    for name, tensor in tensors.items():
        assert tensor.std() > 0.01, name


def test_a_miniature_keeps_the_published_structure() -> None:
    small, config = shrink(registered("tiny_llama"))
    assert sizes_of(small) == Sizes(
        vocab=512, layers=2, hidden=128, intermediate=256, heads=16, kv_heads=2, head_dim=64
    )
    assert small.rms_norm_eps == 1e-5
    assert small.max_position_embeddings == 2048
    assert small.tie_word_embeddings is False
    attention = config.block_config(0).attn_config
    assert (attention.num_heads, attention.num_query_groups, attention.head_dim) == (16, 2, 64)
    assert (config.vocab_size, config.num_layers, config.embedding_dim) == (512, 2, 128)


def test_a_miniature_has_every_kind_of_layer_and_a_window_that_cuts() -> None:
    small, config = shrink(gemma3())
    assert set(small.layer_types) == {"sliding_attention", "full_attention"}
    assert len(small.layer_types) == small.num_hidden_layers == config.num_layers == 6
    assert small.num_key_value_heads == 1
    assert small.sliding_window == WINDOW == config.block_config(0).attn_config.sliding_window_size
    assert config.embedding_scale == pytest.approx(math.sqrt(128))


WRONG: dict[str, Callable[[Any], None]] = {
    "rotary base": lambda config: setattr(config.block_config(0).attn_config, "rotary_base", 20000),
    "norm eps": lambda config: setattr(config.final_norm_config, "epsilon", 1e-3),
    "heads": lambda config: setattr(config.block_config(0).attn_config, "num_heads", 16),
    "KV heads": lambda config: setattr(config.block_config(0).attn_config, "num_query_groups", 8),
    "head_dim": lambda config: setattr(config.block_config(0).attn_config, "head_dim", 128),
    "hidden size": lambda config: setattr(config, "embedding_dim", 2050),
    "intermediate size": lambda config: setattr(config.block_config(0).ff_config, "intermediate_size", 5600),
    "vocabulary": lambda config: setattr(config, "vocab_size", 32001),
    "layers": lambda config: setattr(config, "num_layers", 21),
    "embedding scale": lambda config: setattr(config, "embedding_scale", 2.0),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_value_in_the_reauthored_config_stays_wrong_in_small(what: str) -> None:
    right = registered("tiny_llama")

    def mistaken() -> Any:
        config = right.config()
        WRONG[what](config)
        return config

    assert shrink(dataclasses.replace(right, config=mistaken))[1] != shrink(right)[1]
