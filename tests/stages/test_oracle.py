"""The oracle is float64 throughout: it agrees with a forward pass that was written without it, and without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from harness.bench.workbench import Bench, bench
from harness.names.taps import block_tap
from harness.stages.huggingface import stage as hf
from harness.stages.torch.float64 import TrueFloat64
from harness.store.trace import Trace

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, np.dtype[np.float64]]
AGREEMENT = 1e-13


def llama_forward(weights: dict[str, Array], config: dict[str, Any], tokens: list[int]) -> dict[str, Array]:
    """Every tap of a Llama decoder in float64, `[time, ...]`, after the papers and nothing else.

    RMSNorm: arXiv 1910.07467. Rotary embedding: arXiv 2104.09864, the two halves of a head as its pairs, as the
    published checkpoints have them. Grouped queries: arXiv 2305.13245. SwiGLU: arXiv 2002.05202.
    """
    taps: dict[str, Array] = {}
    time, depth = len(tokens), config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    frequencies = float(config["rope_parameters"]["rope_theta"]) ** (-np.arange(0, depth, 2, dtype=np.float64) / depth)
    angles = np.arange(time, dtype=np.float64)[:, None, None] * frequencies

    def norm(x: Array, name: str) -> Array:
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + config["rms_norm_eps"]) * weights[f"{name}.weight"]

    def rotated(x: Array) -> Array:
        one, two = x[..., : depth // 2], x[..., depth // 2 :]
        return np.concatenate(
            [one * np.cos(angles) - two * np.sin(angles), two * np.cos(angles) + one * np.sin(angles)], axis=-1
        )

    x = taps["embed"] = weights["model.embed_tokens.weight"][tokens]
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"

        def dense(value: Array, name: str, layer: str = layer) -> Array:
            return value @ weights[f"{layer}.{name}.weight"].T

        here: dict[str, Array] = {}
        here["attn.norm"] = norm(x, f"{layer}.input_layernorm")
        for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            here[f"attn.{part}"] = dense(here["attn.norm"], f"self_attn.{part}_proj").reshape(time, count, depth)
        here["attn.q_rope"], here["attn.k_rope"] = rotated(here["attn.q"]), rotated(here["attn.k"])
        here["cache.k"], here["cache.v"] = here["attn.k_rope"], here["attn.v"]
        keys, values = (np.repeat(here[f"cache.{part}"], heads // kv_heads, axis=1) for part in "kv")
        scores = np.einsum("thd,shd->ths", here["attn.q_rope"], keys) / np.sqrt(depth)
        scores[np.triu(np.ones((time, time), bool), 1)[:, None, :].repeat(heads, 1)] = -np.inf
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        here["attn.probs"] = powers / powers.sum(axis=-1, keepdims=True)
        here["attn.context"] = np.einsum("ths,shd->thd", here["attn.probs"], values).reshape(time, heads * depth)
        here["attn.out"] = dense(here["attn.context"], "self_attn.o_proj")
        here["residual"] = x + here["attn.out"]
        here["mlp.norm"] = norm(here["residual"], f"{layer}.post_attention_layernorm")
        here["mlp.gate"], here["mlp.up"] = (dense(here["mlp.norm"], f"mlp.{part}_proj") for part in ("gate", "up"))
        here["mlp.act"] = here["mlp.gate"] / (1 + np.exp(-here["mlp.gate"])) * here["mlp.up"]
        here["mlp.out"] = dense(here["mlp.act"], "mlp.down_proj")
        x = here["out"] = here["residual"] + here["mlp.out"]
        taps |= {block_tap(number, point): value for point, value in here.items()}
    taps["final_norm"] = norm(x, "model.norm")
    taps["logits"] = taps["final_norm"] @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T
    return taps


def errors_of_the_oracle(model: Bench, folder: Path) -> dict[str, float]:
    """tap -> norm of the oracle's error over the norm of the tap, the larger of the two inputs."""
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in model.tensors.items()}
    config = json.loads((model.checkpoint / "config.json").read_text())
    errors: dict[str, float] = {}
    for item in model.prepared.inputs:
        own = llama_forward(weights, config, item.tokens)
        trace = Trace.open(folder / "oracle" / item.id)
        assert set(trace.taps) == set(own) == set(model.prepared.taps)
        for tap, values in own.items():
            traced = trace.load(tap)
            assert traced.dtype == np.float64
            error = float(np.linalg.norm(traced[0] - values) / np.linalg.norm(values))
            errors[tap] = max(errors.get(tap, 0.0), error)
    return errors


class Doubled(nullcontext[None]):
    """What `model.double()` does, in place of `TrueFloat64`: weights in float64, and no watch over the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.narrow, self.rounded = 0, {}, {}


@pytest.mark.parametrize("name", ["tiny_llama", "smollm2"])
def test_the_oracle_agrees_with_a_forward_pass_in_numpy_at_every_tap(name: str, tmp_path: Path) -> None:
    model = bench(name)
    model.trace("oracle", tmp_path).as_dict()
    errors = errors_of_the_oracle(model, tmp_path)
    worst = max(errors, key=lambda tap: errors[tap])
    print(f"oracle: {name}: largest error of {len(errors)} taps {errors[worst]:.2g} at {worst}")
    assert errors[worst] <= AGREEMENT, worst


def test_doubling_the_model_alone_would_not_agree(tmp_path: Path) -> None:
    """Else the agreement above would prove nothing: this is what float32 inside transformers costs."""
    model = bench("tiny_llama")
    with mock.patch.object(hf, "TrueFloat64", Doubled):
        model.trace("oracle", tmp_path).as_dict()
    errors = errors_of_the_oracle(model, tmp_path)
    assert errors["embed"] == 0
    assert errors["block.0.attn.norm"] > 1e5 * AGREEMENT
    assert errors["logits"] > 1e5 * AGREEMENT


def test_the_oracle_makes_no_tensor_narrower_than_float64(tmp_path: Path) -> None:
    facts = bench("tiny_llama").trace("oracle", tmp_path).as_dict()
    assert facts["dtype"] == "float64"
    assert facts["narrow_results"] == {}
    assert facts["torch_calls"] > 1000


X = torch.tensor([1.0, 1 / 3], dtype=torch.float64)

NAMED: dict[str, Callable[[], torch.Tensor]] = {
    "x.float()": lambda: X.float(),
    "x.to(float32)": lambda: X.to(torch.float32),
    "x.to(dtype=float32)": lambda: X.to(dtype=torch.float32),
    "x.type(float32)": lambda: X.type(torch.float32),
    "softmax(dtype=float32)": lambda: torch.softmax(X, -1, dtype=torch.float32),
    "tensor(dtype=float32)": lambda: torch.tensor([1 / 3], dtype=torch.float32),
    "tensor()": lambda: torch.tensor([1 / 3]),
    "arange(dtype=float32)": lambda: torch.arange(3, dtype=torch.float32) / 3,
    "zeros()": lambda: torch.zeros(3),
    "ones_like(dtype=float32)": lambda: torch.ones_like(X, dtype=torch.float32),
}


@pytest.mark.parametrize("code", NAMED)
def test_float32_that_code_asks_for_by_name_is_float64(code: str) -> None:
    with TrueFloat64() as mode:
        assert NAMED[code]().dtype == torch.float64
    assert not mode.narrow
    assert mode.calls > 0
    if code not in ("tensor()", "zeros()"):
        assert NAMED[code]().dtype != torch.float64, "outside the oracle nothing is changed"


ROUNDED: dict[str, Callable[[], torch.Tensor]] = {
    "x.half()": lambda: X.half(),
    "x.bfloat16()": lambda: X.bfloat16(),
    "x.to(bfloat16)": lambda: X.to(torch.bfloat16),
}


@pytest.mark.parametrize("code", ROUNDED)
def test_what_code_rounds_to_less_than_float32_stays_rounded_and_is_counted(code: str) -> None:
    """A float32 model that does so means it: Falcon's ALiBi slopes are bfloat16 whatever the weights are."""
    with TrueFloat64() as mode:
        rounded = ROUNDED[code]() * torch.arange(1, 3)
        assert (rounded.to(torch.float32).dtype, rounded.double().tolist()) == (torch.float64, rounded.tolist())
    assert torch.equal(rounded, ROUNDED[code]() * torch.arange(1, 3))
    assert mode.rounded.total() >= 2
    assert not mode.narrow


def test_a_constant_keeps_all_its_digits() -> None:
    with TrueFloat64():
        assert torch.tensor([1 / 3], dtype=torch.float32).item() == 1 / 3


NARROW: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "through NumPy": lambda x: torch.from_numpy(x.numpy().astype(np.float32)),
    "by the name of a tensor type": lambda x: x.type("torch.FloatTensor"),
    "like another tensor": lambda x: x.to(torch.from_numpy(np.zeros(1, np.float32))),
}


@pytest.mark.parametrize("way", NARROW)
def test_a_narrow_tensor_that_comes_in_another_way_is_counted(way: str) -> None:
    with TrueFloat64() as mode:
        assert (X + NARROW[way](X)).dtype == torch.float64, "what comes of it looks innocent"
    assert mode.narrow.total() >= 1


@pytest.mark.parametrize("way", NARROW)
def test_an_oracle_with_one_narrow_tensor_in_it_refuses_to_be_one(way: str, tmp_path: Path) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward = LlamaMLP.forward

    def narrowed(self: Any, x: torch.Tensor) -> torch.Tensor:
        return NARROW[way](forward(self, x))

    with mock.patch.object(LlamaMLP, "forward", narrowed), pytest.raises(RuntimeError, match="not float64 throughout"):
        bench("tiny_llama").trace("oracle", tmp_path).as_dict()
