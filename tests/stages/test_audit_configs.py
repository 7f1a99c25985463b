"""The audit names every field in which the two configs differ, with both values, and no other."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from generative import generative_main

from harness.audit.audit import audit_configs
from harness.audit.published import build_published
from harness.names.codes import FindingCode
from harness.pipeline.dimensions import window_of
from harness.record.record import Finding
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel
from harness.stages.litert_torch.keys import account_for_published_keys
from harness.weights.configs import hf_config

pytestmark = pytest.mark.slow

Change = Callable[[Any], Any]


def changed(model: GenerativeModel, change: Change) -> GenerativeModel:
    """The model with another re-authored config."""
    config = copy.deepcopy(model.config())
    change(config)
    return dataclasses.replace(model, config=lambda: copy.deepcopy(config))


def errors(model: GenerativeModel, published: Any = None) -> list[Finding]:
    return [finding for finding in audit_configs(model, published) if finding.severity == "error"]


def blocks(config: Any) -> list[Any]:
    return list(config.block_configs) if isinstance(config.block_configs, (list, tuple)) else [config.block_configs]


def put(path: str, value: Any, only: int | None = None) -> Change:
    """Set a field of every block ("attn_config.rotary_base"), of one block, or of the model ("model.vocab_size")."""

    def change(config: Any) -> None:
        owners = [config] if path.startswith("model.") else blocks(config)
        if only is not None:
            owners = [owners[only]]
        *parents, name = path.removeprefix("model.").split(".")
        for owner in owners:
            for parent in parents:
                owner = getattr(owner, parent)
            setattr(owner, name, copy.deepcopy(value))

    return change


def norm(path: str, **values: Any) -> Change:
    """Replace one norm of every block by a copy with other values: the examples share one object for all norms."""

    def change(config: Any) -> None:
        owners = [config] if path.startswith("model.") else blocks(config)
        *parents, name = path.removeprefix("model.").split(".")
        for owner in owners:
            for parent in parents:
                owner = getattr(owner, parent)
            setattr(owner, name, dataclasses.replace(getattr(owner, name), **values))

    return change


def both(*changes: Change) -> Change:
    def change(config: Any) -> None:
        for each in changes:
            each(config)

    return change


def kind(name: str) -> Any:
    from litert_torch.generative.layers import model_config as cfg

    return getattr(cfg.NormalizationType, name)


def activation(name: str) -> Change:
    def change(config: Any) -> None:
        from litert_torch.generative.layers import model_config as cfg

        for block in blocks(config):
            block.ff_config.activation = cfg.ActivationConfig(getattr(cfg.ActivationType, name))

    return change


def sequential(config: Any) -> None:
    from litert_torch.generative.layers import model_config as cfg

    for block in blocks(config):
        block.ff_config.type = cfg.FeedForwardType.SEQUENTIAL


def everywhere(kind_of_attention: str) -> Change:
    def change(config: Any) -> None:
        from litert_torch.generative.layers import model_config as cfg

        for block in blocks(config):
            block.attn_config.attn_type = getattr(cfg.AttentionType, kind_of_attention)

    return change


def rope(**values: Any) -> Change:
    """Change an argument that the example binds to its own build_rope."""

    def change(config: Any) -> None:
        config.build_rope = partial(config.build_rope, **values)

    return change


# model, change, field, published, re-authored
CHANGES: list[tuple[str, Change, str, str, str]] = [
    ("tiny_llama", put("model.vocab_size", 31999), "vocabulary", "32000", "31999"),
    ("tiny_llama", put("model.num_layers", 21), "layers", "22", "21"),
    ("tiny_llama", put("attn_config.num_query_groups", 8), "kv_heads", "4", "8"),
    ("tiny_llama", put("ff_config.intermediate_size", 5504), "intermediate_size", "5632", "5504"),
    ("tiny_llama", put("attn_config.rotary_base", 500000), "rope.base", "10000", "500000"),
    ("tiny_llama", put("attn_config.rotary_percentage", 0.5), "rope.dims", "64", "32"),
    ("tiny_llama", norm("pre_attention_norm_config", epsilon=1e-6), "pre_attention.eps", "1e-05", "1e-06"),
    ("tiny_llama", norm("post_attention_norm_config", epsilon=1e-6), "pre_mlp.eps", "1e-05", "1e-06"),
    ("tiny_llama", norm("model.final_norm_config", epsilon=1e-6), "final_norm.eps", "1e-05", "1e-06"),
    ("tiny_llama", norm("model.final_norm_config", zero_centered=True), "final_norm.zero_centred", "no", "yes"),
    ("tiny_llama", activation("GELU"), "activation", "silu", "gelu"),
    ("tiny_llama", sequential, "gated", "yes", "no"),
    ("tiny_llama", put("attn_config.qkv_use_bias", True), "qkv_bias", "no", "yes"),
    ("tiny_llama", put("attn_config.output_proj_use_bias", True), "output_bias", "no", "yes"),
    ("tiny_llama", put("ff_config.use_bias", True), "mlp_bias", "no", "yes"),
    ("tiny_llama", put("model.lm_head_use_bias", True), "lm_head_bias", "no", "yes"),
    ("tiny_llama", put("model.lm_head_share_weight_with_embedding", True), "tied_embeddings", "no", "yes"),
    ("tiny_llama", put("model.embedding_scale", 45.0), "embedding_scale", "1", "45"),
    ("tiny_llama", put("attn_config.logit_softcap", 50.0), "softcap", "none", "50"),
    ("smollm", put("model.lm_head_share_weight_with_embedding", False), "tied_embeddings", "yes", "no"),
    ("qwen2_5", put("attn_config.qkv_use_bias", False), "qkv_bias", "yes", "no"),
    ("qwen3", norm("attn_config.query_norm_config", epsilon=1e-5), "query_norm.eps", "1e-06", "1e-05"),
    ("qwen3", norm("attn_config.key_norm_config", epsilon=1e-5), "key_norm.eps", "1e-06", "1e-05"),
    ("llama3_2", rope(factor=8.0), "rope.scaling", "32", "8"),
    ("llama3_2", rope(low_freq_factor=2.0), "rope.scaling", "", ""),
    ("llama3_2", put("attn_config.rotary_base", 10000), "rope.base", "500000", "10000"),
    ("phi2", put("attn_config.rotary_percentage", 0.5), "rope.dims", "32", "40"),
    ("phi2", put("parallel_residual", False), "parallel_residual", "yes", "no"),
    ("phi2", activation("GELU"), "activation", "gelu_tanh", "gelu"),
    ("phi2", activation("GELU_QUICK"), "activation", "gelu_tanh", "gelu_quick"),
    ("phi2", norm("pre_attention_norm_config", epsilon=1e-6), "pre_attention.eps", "1e-05", "1e-06"),
    ("phi2", norm("pre_attention_norm_config", use_bias=False), "pre_attention.bias", "yes", "no"),
    ("phi2", put("model.lm_head_use_bias", False), "lm_head_bias", "yes", "no"),
    ("phi2", put("attn_config.output_proj_use_bias", False), "output_bias", "yes", "no"),
    ("phi3", rope(scale=1.0), "rope.amplitude", "1.190238", "1"),
    ("phi3", put("model.max_seq_len", 8192), "rope_until", "", ""),
    ("openelm", put("attn_config.rotary_base", 500000), "rope.base", "10000", "500000"),
    ("openelm", activation("GE_GLU"), "activation", "silu", "gelu"),
    ("openelm", norm("attn_config.query_norm_config", epsilon=1e-5), "query_norm.eps", "1e-06", "1e-05"),
    ("openelm", put("ff_config.intermediate_size", 1792, only=0), "intermediate_size", "1536", "1792"),
    ("gemma1", norm("post_attention_norm_config", zero_centered=False), "pre_mlp.zero_centred", "yes", "no"),
    ("gemma1", put("model.embedding_scale", None), "embedding_scale", "45.25483", "1"),
    ("gemma2", put("model.final_logit_softcap", None), "final_softcap", "30", "none"),
    ("gemma2", put("model.final_logit_softcap", 50.0), "final_softcap", "30", "50"),
    ("gemma2", put("attn_config.logit_softcap", None), "softcap", "50", "none"),
    ("gemma2", put("attn_config.sliding_window_size", 2048), "window", "4096", "2048"),
    ("gemma2", everywhere("GLOBAL"), "window", "4096", "none"),
    ("gemma2", norm("ff_config.pre_ff_norm_config", epsilon=1e-5), "pre_mlp.eps", "1e-06", "1e-05"),
    ("gemma2", norm("ff_config.post_ff_norm_config", epsilon=1e-5), "post_mlp.eps", "1e-06", "1e-05"),
    ("gemma2", norm("post_attention_norm_config", epsilon=1e-5), "post_attention.eps", "1e-06", "1e-05"),
    ("gemma3", put("attn_config.sliding_window_size", 1024), "window", "512", "1024"),
    ("gemma3", everywhere("LOCAL_SLIDING"), "window", "none", "512"),
    ("gemma3", put("attn_config.rotary_base", 10_000, only=5), "rope.base", "1000000", "10000"),
]


@pytest.mark.parametrize(
    ("name", "change", "field", "published", "reauthored"),
    [
        pytest.param(
            *change, marks=[] if at % 4 == 0 else [pytest.mark.further], id="-".join((change[0], change[2], change[4]))
        )
        for at, change in enumerate(CHANGES)
    ],
)
def test_a_changed_field_is_the_only_finding_and_shows_both_values(
    name: str, change: Change, field: str, published: str, reauthored: str
) -> None:
    found = errors(changed(load_spec(find_spec(name)), change))
    assert [finding.field for finding in found] == [field], [finding.what for finding in found]
    assert found[0].kind == "config"
    if published:
        # Of many numbers the one that differs most is shown, as "32 at 31 (17 of 32 differ)".
        assert (found[0].published.split(" at ")[0], found[0].reauthored) == (published, reauthored)
    assert all(value in found[0].what for value in (field, found[0].published, found[0].reauthored))


def test_a_field_that_differs_in_one_block_names_that_block_and_both_modules() -> None:
    model = changed(load_spec(find_spec("gemma3")), put("attn_config.rotary_base", 10_000, only=5))
    (finding,) = errors(model)
    assert finding.blocks == [5]
    assert finding.modules == {"hf": "model.layers.{}.self_attn", "reauthored": "transformer_blocks.{}.atten_func"}
    assert "block 5:" in finding.what


@pytest.mark.parametrize("name", sorted(generative_main()))
def test_a_shipped_example_agrees_with_its_published_config_in_every_field(name: str) -> None:
    model = load_spec(find_spec(name))
    found = audit_configs(model)
    assert not [finding.what for finding in found if finding.code == FindingCode.FIELD_NOT_AUDITED]
    expected = ["alibi"] if name == "falcon" else []  # transformers rounds its slopes to bfloat16
    assert [finding.field for finding in found if finding.severity == "error"] == expected
    assert {finding.field for finding in found if finding.severity == "warning"} <= {"max_length"}


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (put("model.final_logit_softcap", 30.0), "final_logit_softcap", "30.0"),
        (put("attn_config.sliding_window_size", 4096), "block_configs.attn_config.sliding_window_size", "4096"),
        (put("model.embedding_use_bias", True), "embedding_use_bias", "True"),
        (norm("post_attention_norm_config", type="RMS_NORM"), "block_configs.post_attention_norm_config", "RMS_NORM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_that_the_class_ignores_is_an_error_that_names_the_class(
    change: Change, field: str, value: str
) -> None:
    """Phi-2's block has no norm after attention, and reads none: it is a parallel one."""
    model = load_spec(find_spec("phi2"))
    model = changed(model, both(change, _types))
    found = [finding for finding in errors(model) if finding.code == FindingCode.FIELD_IGNORED]
    assert [finding.field for finding in found] == [field]
    assert all(part in found[0].what for part in (field, value, "Phi2"))


def _types(config: Any) -> None:
    for block in blocks(config):
        if block.post_attention_norm_config.type == "RMS_NORM":
            block.post_attention_norm_config.type = kind("RMS_NORM")


def test_rope_bases_that_differ_between_blocks_are_ignored_by_the_plain_decoder() -> None:
    def change(config: Any) -> None:
        config.block_configs = [copy.deepcopy(config.block_configs) for _ in range(config.num_layers)]
        config.block_configs[1].attn_config.rotary_base = 500

    found = errors(changed(load_spec(find_spec("tiny_llama")), change))
    assert [finding.field for finding in found] == ["rope.base", "block_configs.attn_config.rotary_base"]
    assert found[0].blocks == [1]
    assert "TinyLlama ignores it" in found[1].what


def test_a_checkpoints_own_config_takes_the_published_ones_place(tmp_path: Path) -> None:
    model = load_spec(find_spec("tiny_llama"))
    config = model.published()
    config.rms_norm_eps = 1e-6
    config.save_pretrained(tmp_path)
    assert {finding.field for finding in errors(model, hf_config(tmp_path))} == {
        "pre_attention.eps", "pre_mlp.eps", "final_norm.eps",
    }  # fmt: skip


def test_a_field_nobody_knows_is_said_to_be_unaudited(tmp_path: Path) -> None:
    model = load_spec(find_spec("tiny_llama"))
    model.published().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "residual_multiplier": 0.22}))
    (finding,) = audit_configs(model, hf_config(tmp_path))
    assert finding.severity == "warning"
    assert "residual_multiplier is not audited" in finding.what
    assert "0.22" in finding.what


def test_names_that_ask_for_a_key_no_tied_checkpoint_has_are_found_without_weights() -> None:
    model = load_spec(find_spec("qwen3"))
    from litert_torch.generative.examples.qwen import qwen3

    shipped = dataclasses.replace(model, tensor_names=qwen3.TENSOR_NAMES)
    network = build_published(model.published())
    assert account_for_published_keys(model, network, model.config()) == []
    (finding,) = account_for_published_keys(shipped, network, model.config())
    assert finding.kind == "weights"
    assert "lm_head.weight" in finding.what


@pytest.mark.parametrize(("name", "published"), [("tiny_llama", "0.125"), ("gemma2", "0.0625")])
def test_the_scale_of_queries_is_what_attention_multiplies_by(
    name: str, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No re-authored config says it. With a softcap it is a product of its own, without one an argument of torch's."""
    from litert_torch.generative.layers import scaled_dot_product_attention as attention

    shipped = attention.scaled_dot_product_attention_with_hlfb
    monkeypatch.setattr(attention, "scaled_dot_product_attention_with_hlfb", partial(shipped, scale=0.3))
    (finding,) = errors(load_spec(find_spec(name)))
    assert (finding.field, finding.published, finding.reauthored) == ("query_scale", published, "0.3")


def with_settings(name: str, **settings: Any) -> tuple[GenerativeModel, Any]:
    """(model, its published config with other settings, as a config.json may hold them)."""
    model = load_spec(find_spec(name))
    config = model.published()
    for field, value in settings.items():
        setattr(config, field, value)
    return model, config


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tiny_llama", {"sliding_window": 16}),
        ("tiny_llama", {"alibi": True}),
        ("gemma3", {"attn_logit_softcapping": 50.0}),
        pytest.param(
            "tiny_llama",
            {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256},
            marks=pytest.mark.further,
        ),
        pytest.param("phi2", {"sliding_window": 16}, marks=pytest.mark.further),
        pytest.param(
            "qwen3", {"sliding_window": 16, "layer_types": ["full_attention"] * 28}, marks=pytest.mark.further
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_setting_that_the_published_class_ignores_is_not_held_against_the_re_authored_model(
    name: str, settings: dict[str, Any]
) -> None:
    model, config = with_settings(name, **settings)
    found = audit_configs(model, config)
    wrong = [item for item in found if item.severity == "error" or item.code == FindingCode.FIELD_NOT_AUDITED]
    assert [item.what for item in wrong] == []
    if "sliding_window" in settings:
        assert window_of(model, config, 10_000) is None  # nor is it said that no input outgrows it


@pytest.mark.parametrize("layer_types", [None, ["full_attention"] * 22], ids=["plain", "with-kinds-it-ignores"])
def test_a_window_that_the_published_class_has_is_found_where_no_module_of_it_says_so(layer_types: Any) -> None:
    """Mistral's attention has no `sliding_window` of its own: it reads the config's when it runs."""
    from transformers import MistralConfig

    model = load_spec(find_spec("tiny_llama"))
    config = MistralConfig(**{**model.published().to_dict(), "sliding_window": 16, "model_type": "mistral"})
    if layer_types:
        config.layer_types = layer_types
    (finding,) = errors(model, config)
    assert (finding.field, finding.published, finding.reauthored) == ("window", "16", "none")
    assert finding.blocks == list(range(22))
    assert window_of(model, config, 10_000) == 16


def test_a_window_of_some_blocks_is_found_at_these_blocks() -> None:
    kinds = ["sliding_attention" if block % 7 == 3 else "full_attention" for block in range(28)]
    (finding,) = errors(*with_settings("qwen3", sliding_window=16, layer_types=kinds))
    assert (finding.field, finding.published, finding.reauthored) == ("window", "16", "none")
    assert finding.blocks == [3, 10, 17, 24]


def test_alibi_that_the_published_class_computes_is_found() -> None:
    model = load_spec(find_spec("falcon"))
    config = model.published()
    config.alibi = False
    assert {finding.field for finding in errors(model, config)} == {"rope", "alibi"}
