"""A miniature keeps what makes a model itself, and its two versions agree when the published configs do."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel
from harness.stages.litert_torch.loading import load_reauthored
from harness.stages.litert_torch.miniature import shrink
from harness.weights.families import Sizes, sizes_of
from harness.weights.miniature import LARGEST_HIDDEN, WINDOW, write_miniature

pytestmark = pytest.mark.slow

POSITIONS = 64


def registered(name: str) -> GenerativeModel:
    return load_spec(find_spec(name))


NAMES = ("tiny_llama", "smollm2", "gemma2", "gemma3", "phi2", "phi4", "qwen2_5", "openelm")


def hf_outputs(folder: Path, ids: Any, attention: str = "eager") -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    with torch.no_grad():
        return model(ids, output_attentions=attention == "eager")


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


@pytest.mark.parametrize("name", NAMES)
def test_the_two_versions_of_a_miniature_agree(name: str, tmp_path: Path) -> None:
    model = registered(name)
    write_miniature(model, 3, tmp_path)
    _, config = shrink(model)
    ids = tokens()
    expected = hf_outputs(tmp_path, ids, "sdpa" if model.reference else "eager").logits
    error = (reauthored_logits(model, tmp_path, config, ids) - expected).norm() / expected.norm()
    assert error < 1e-5


@pytest.mark.parametrize("name", ["tiny_llama", "gemma3"])
def test_attention_in_a_miniature_is_far_from_uniform(name: str, tmp_path: Path) -> None:
    import torch

    write_miniature(registered(name), 3, tmp_path)
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

    write_miniature(registered("phi2"), 0, tmp_path)
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
    small, config = shrink(registered("gemma3"))
    assert set(small.layer_types) == {"sliding_attention", "full_attention"}
    assert len(small.layer_types) == small.num_hidden_layers == config.num_layers == 6
    assert small.num_key_value_heads == 1
    assert small.sliding_window == WINDOW == config.block_config(0).attn_config.sliding_window_size
    assert config.embedding_scale == pytest.approx(math.sqrt(128))


def test_with_alibi_the_number_of_heads_stays_since_the_slopes_follow_from_it() -> None:
    small, config = shrink(registered("falcon"))
    assert small.num_attention_heads == config.block_config(0).attn_config.num_heads == 32
    assert small.hidden_size == config.embedding_dim == LARGEST_HIDDEN
    assert small.ffn_hidden_size == config.block_config(0).ff_config.intermediate_size == 256


@pytest.mark.parametrize("name", ["phi3", "phi4"])
def test_rope_factors_stay_and_with_them_the_part_of_a_head_that_is_turned(name: str) -> None:
    model = registered(name)
    small, published = shrink(model)[0], model.published()
    assert small.rope_parameters == published.rope_parameters
    assert len(small.rope_parameters["short_factor"]) == 48
    assert sizes_of(small).head_dim == published.hidden_size // published.num_attention_heads
    assert small.hidden_size == small.num_attention_heads * sizes_of(small).head_dim


def test_a_window_longer_than_the_context_is_no_window() -> None:
    """Shrunk like others it would cut off what no position of the published model ever loses."""
    small, _ = shrink(registered("phi3"))
    assert small.sliding_window == 262144
    assert sizes_of(small).window == 0


def test_gemma_keeps_its_softcaps_and_the_scale_of_its_queries() -> None:
    small, config = shrink(registered("gemma2"))
    assert small.layer_types == ["sliding_attention", "full_attention"]
    assert (small.head_dim, small.query_pre_attn_scalar) == (256, 256)
    assert (small.attn_logit_softcapping, small.final_logit_softcapping) == (50.0, 30.0)
    assert (config.block_config(0).attn_config.logit_softcap, config.final_logit_softcap) == (50.0, 30.0)


def test_where_layers_differ_in_heads_each_number_of_heads_is_there() -> None:
    model = registered("openelm")
    small, config = shrink(model)
    assert small.num_query_heads == [12, 16, 20, 24]
    assert small.num_kv_heads == [3, 4, 5, 6]
    assert len(set(small.intermediate_size)) == 4
    blocks = [config.block_config(layer) for layer in range(config.num_layers)]
    assert [block.attn_config.num_heads for block in blocks] == small.num_query_heads
    assert [block.attn_config.num_query_groups for block in blocks] == small.num_kv_heads
    assert [block.ff_config.intermediate_size for block in blocks] == small.intermediate_size


@pytest.mark.parametrize(("name", "layers"), [("tiny_llama", 1), ("tiny_llama", 5), ("gemma3", 2), ("openelm", 2)])
def test_a_miniature_has_as_many_layers_as_it_is_told(name: str, layers: int) -> None:
    small, config = shrink(registered(name), layers)
    assert small.num_hidden_layers == config.num_layers == layers
    if name == "openelm":
        assert small.num_query_heads == [12, 24]


def test_no_miniature_has_more_layers_than_the_model() -> None:
    with pytest.raises(UsageError, match="--layers 23: tiny_llama has 22 layers; give at most as many"):
        shrink(registered("tiny_llama"), 23)


def test_a_wrong_number_of_heads_in_one_layer_stays_wrong_in_small() -> None:
    right = registered("openelm")

    def mistaken() -> Any:
        config = right.config()
        config.block_configs[35].attn_config.num_heads = 20
        return config

    wrong = shrink(dataclasses.replace(right, config=mistaken))[1]
    heads = [block.attn_config.num_heads for block in wrong.block_configs]
    assert heads[:3] == [12, 16, 20]
    assert heads[3] != 24


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
