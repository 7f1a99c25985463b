"""OpenELM in plain PyTorch: the reference that `models/openelm.py` is compared with, since transformers has none.

Written after the paper (arXiv 2404.14619) and the published checkpoints: fields of the config and names of the weights
are theirs. RMSNorm: arXiv 1910.07467. Rotary embedding: arXiv 2104.09864, the two halves of a head as its pairs.
Gated feed forward: arXiv 2002.05202. What differs from Llama: layers have different numbers of heads and different
widths, q, k and v come from one projection, queries and keys are normalised per head, gate and up are one matrix, and
the head is the embedding.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

NORM_EPS = 1e-6  # fixed in the published architecture; the config has no field for it


class OpenELMConfig(PreTrainedConfig):
    """The fields of the published config.json. `num_query_heads`, `num_kv_heads`, `ffn_multipliers`: one per layer."""

    model_type = "openelm"
    attribute_map = {  # noqa: RUF012
        "hidden_size": "model_dim",
        "num_hidden_layers": "num_transformer_layers",
        "num_attention_heads": "num_query_heads",
        "num_key_value_heads": "num_kv_heads",
        "max_position_embeddings": "max_context_length",
        "tie_word_embeddings": "share_input_output_layers",
    }

    vocab_size: int = 32000
    max_context_length: int = 2048
    num_transformer_layers: int = 12
    model_dim: int = 2048
    head_dim: int = 128
    num_query_heads: list[int] | None = None
    num_kv_heads: list[int] | None = None
    num_gqa_groups: int = 1
    qkv_multipliers: list[float] | None = None
    ffn_multipliers: list[float] | None = None
    ffn_with_glu: bool = True
    ffn_dim_divisor: int = 256
    activation_fn_name: str = "swish"
    normalization_layer_name: str = "rms_norm"
    normalize_qk_projections: bool = True
    share_input_output_layers: bool = True
    rope_freq_constant: int = 10000
    rope_max_length: int = 4096
    initializer_range: float = 0.02
    use_cache: bool = True

    @property
    def intermediate_size(self) -> list[int]:
        """Width of each layer's feed forward: its multiple of the hidden size, rounded to the divisor."""
        return [
            _rounded(multiplier * self.model_dim, self.ffn_dim_divisor) for multiplier in self.ffn_multipliers or []
        ]


def _rounded(size: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `size`; the next one where that would take off a tenth or more."""
    nearest = max(divisor, int(size + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * size else nearest


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + NORM_EPS) * self.weight


class RotaryEmbedding(nn.Module):
    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__()
        self.base, self.half = config.rope_freq_constant, config.head_dim // 2

    @property
    def inv_freq(self) -> Tensor:
        """Radians per position of each pair, `[head_dim / 2]`."""
        return self.base ** (-torch.arange(self.half, dtype=torch.float32) / self.half)

    def forward(self, x: Tensor) -> Tensor:
        """Turn `[batch, heads, time, head_dim]`, positions from 0."""
        angles = torch.arange(x.shape[-2], dtype=torch.float32)[:, None] * self.inv_freq
        one, two = x.chunk(2, dim=-1)
        return torch.cat([one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()], dim=-1)


class Attention(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_query_heads[layer], config.num_kv_heads[layer]
        self.head_dim, self.scaling = config.head_dim, config.head_dim**-0.5
        self.qkv_proj = nn.Linear(config.model_dim, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.q_norm = RMSNorm(self.head_dim)
        self.k_norm = RMSNorm(self.head_dim)
        self.rope = RotaryEmbedding(config)
        self.out_proj = nn.Linear(self.heads * self.head_dim, config.model_dim, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, SimpleNamespace]:
        """`[batch, time, hidden]` -> the same, and keys and values, `[batch, kv_heads, time, head_dim]` each."""
        batch, time, _ = x.shape
        heads = self.qkv_proj(x).reshape(batch, time, -1, self.head_dim).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        q, k = self.rope(self.q_norm(q)), self.rope(self.k_norm(k))
        context = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scaling, enable_gqa=True)
        return self.out_proj(context.transpose(1, 2).reshape(batch, time, -1)), SimpleNamespace(keys=k, values=v)


class FeedForward(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        width = config.intermediate_size[layer]
        self.proj_1 = nn.Linear(config.model_dim, 2 * width, bias=False)
        self.proj_2 = nn.Linear(width, config.model_dim, bias=False)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.proj_1(x).chunk(2, dim=-1)
        return self.proj_2(self.act(gate) * up)


class Layer(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.ffn = FeedForward(config, layer)
        self.attn_norm = RMSNorm(config.model_dim)
        self.ffn_norm = RMSNorm(config.model_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, SimpleNamespace]:
        attended, cache = self.attn(self.attn_norm(x))
        x = x + attended
        return x + self.ffn(self.ffn_norm(x)), cache


class Decoder(nn.Module):
    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__()
        self.token_embeddings = nn.Embedding(config.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(Layer(config, number) for number in range(config.num_transformer_layers))
        self.norm = RMSNorm(config.model_dim)


class OpenELMForCausalLM(PreTrainedModel):
    """A PreTrainedModel so that transformers reads and writes its checkpoints; nothing else is taken from there."""

    config_class = OpenELMConfig
    base_model_prefix = "transformer"
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "transformer.token_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__(config)
        self.transformer = Decoder(config)
        self.lm_head = nn.Linear(config.model_dim, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.token_embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, tokens: Tensor, **_: Any) -> CausalLMOutputWithPast:
        """`[batch, time]` token ids from position 0 on -> logits, and the keys and values of every layer."""
        x, caches = self.transformer.token_embeddings(tokens), []
        for layer in self.transformer.layers:
            x, cache = layer(x)
            caches.append(cache)
        logits = self.lm_head(self.transformer.norm(x))
        return CausalLMOutputWithPast(logits=logits, past_key_values=SimpleNamespace(layers=caches))
