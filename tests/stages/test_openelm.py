"""The OpenELM reference computes what transformers computes for the same architecture under another name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from harness.spec.find import find_spec
from harness.spec.load import load_spec
from models.reference.openelm import OpenELMConfig, OpenELMForCausalLM

pytestmark = pytest.mark.slow

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, LAYERS = 8, 2, 32, 64, 2


def small() -> OpenELMConfig:
    return OpenELMConfig(
        vocab_size=128, model_dim=HIDDEN, num_transformer_layers=LAYERS, head_dim=HEAD_DIM,
        num_query_heads=[HEADS] * LAYERS, num_kv_heads=[KV_HEADS] * LAYERS, ffn_multipliers=[1.5] * LAYERS,
        ffn_dim_divisor=32,
    )  # fmt: skip


def as_qwen3(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenELM's weights under Qwen 3's names: q, k and v apart, gate and up apart."""
    renamed = {
        "model.embed_tokens.weight": state["transformer.token_embeddings.weight"],
        "lm_head.weight": state["transformer.token_embeddings.weight"],
        "model.norm.weight": state["transformer.norm.weight"],
    }
    same = {
        "attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm", "attn.out_proj": "self_attn.o_proj",
        "ffn.proj_2": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    for layer in range(LAYERS):
        theirs, own = f"model.layers.{layer}", f"transformer.layers.{layer}"
        renamed |= {f"{theirs}.{b}.weight": state[f"{own}.{a}.weight"] for a, b in same.items()}
        parts = state[f"{own}.attn.qkv_proj.weight"].split([HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM])
        renamed |= {f"{theirs}.self_attn.{part}_proj.weight": w for part, w in zip("qkv", parts, strict=True)}
        gate, up = state[f"{own}.ffn.proj_1.weight"].chunk(2)
        renamed |= {f"{theirs}.mlp.gate_proj.weight": gate, f"{theirs}.mlp.up_proj.weight": up}
    return renamed


def test_with_equal_layers_it_is_qwen_3() -> None:
    torch.manual_seed(0)
    own: Any = OpenELMForCausalLM(small()).eval()
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    twin: Any = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=128, hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, rms_norm_eps=1e-6,
            rope_theta=10000.0, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip
    twin.load_state_dict(as_qwen3(own.state_dict()))
    tokens = torch.randint(0, 128, (1, 40))
    with torch.no_grad():
        ours, theirs = own(tokens), twin(tokens, use_cache=True)
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-5)
    assert float(ours.logits.std()) > 0.5, "logits near zero would agree whatever they are"
    for one, other in zip(ours.past_key_values.layers, theirs.past_key_values.layers, strict=True):
        assert torch.allclose(one.keys, other.keys, atol=1e-5)
        assert torch.allclose(one.values, other.values, atol=1e-5)


def rounded(size: float, divisor: int) -> int:
    nearest = max(divisor, int(size + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * size else nearest


def test_the_published_heads_and_widths_follow_from_the_papers_rule() -> None:
    """Layer-wise scaling, arXiv 2404.14619: both multipliers grow linearly from the first layer to the last."""
    config = load_spec(find_spec("openelm")).published()
    scale = [round(float(x), 2) for x in np.linspace(*config.qkv_multipliers, config.num_transformer_layers)]
    step = config.head_dim * config.num_gqa_groups
    assert config.num_query_heads == [rounded(config.model_dim * x, step) // config.head_dim for x in scale]
    assert config.num_kv_heads == [heads // config.num_gqa_groups for heads in config.num_query_heads]
    widths = [rounded(config.model_dim * x, config.ffn_dim_divisor) for x in np.linspace(0.5, 4.0, 36)]
    assert config.intermediate_size == pytest.approx(widths)
