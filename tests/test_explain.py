"""A model that is broken on purpose is told what is wrong with it, and a sound one is told nothing.

`python -m pytest tests/test_explain.py -s -q | grep explained:` shows what is said. Most cases are slow tests; one of
each kind of place (config, code, weights, checkpoint, flatbuffer) is not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from explaining import Explained, explain_checkpoint, explain_flatbuffer, explain_reauthored
from faults import (
    BUILTIN,
    FIRST,
    XNNPACK,
    Bench,
    bench,
    jiggled,
    patch,
    set_weight,
    typical_element,
    with_flip,
)
from test_sees_faults import LAYER, block, exchange_key_heads, jiggle, other_config, swap_gate_and_up

from harness.explain.decoder import TOKENS, Walk
from harness.explain.diagnose import diagnose
from harness.explain.evidence import gather
from harness.explain.functions import to_bfloat16, to_float16
from harness.explain.hypotheses import all_hypotheses
from harness.explain.work import reference
from harness.spec import main_models
from harness.trace import Trace

Change = Callable[[Any], Any]
slow = pytest.mark.slow


def attention(network: Any, number: int = 1) -> Any:
    return block(network, number).atten_func


def feed_forward(network: Any, number: int = 1) -> Any:
    return block(network, number).ff


class Changed(torch.nn.Module):
    """A module with something done to its output."""

    def __init__(self, module: Any, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.module = module
        self.change = change
        self.weight = getattr(module, "weight", None)

    def forward(self, x: Any) -> Any:
        return self.change(self.module(x))


def with_norm(forward: Callable[[Any, Any], Any]) -> Change:
    """Block 1's first norm computed otherwise: `forward(x, weight)`."""

    def change(network: Any) -> None:
        norm = block(network, 1).pre_atten_norm
        norm.forward = lambda x: forward(x, norm.weight)

    return change


def rms(x: Any, eps: float = 1e-5) -> Any:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def with_mlp(forward: Callable[[Any, Any, Any], Any]) -> Change:
    """`forward(act, gate, up)` makes what the down projection reads."""

    def change(network: Any) -> None:
        ff = feed_forward(network)
        ff.forward = lambda x: ff.post_ff_norm(
            ff.w2(forward(ff.act, ff.w1(ff.pre_ff_norm(x)), ff.w3(ff.pre_ff_norm(x))))
        )

    return change


def with_block(forward: Callable[[Any, Any, Any, Any], Any]) -> Change:
    """`forward(x, attention, residual, mlp)` gives (residual, output); residual and mlp are functions."""

    def change(network: Any) -> None:
        layer = block(network, 1)

        def run(x: Any, rope: Any, mask: Any, input_pos: Any, kv_cache: Any, *_: Any) -> Any:
            attended, kv = layer.atten_func(layer.pre_atten_norm(x), rope, mask, input_pos, kv_cache)
            return forward(x, attended, layer.post_atten_norm, layer.ff), kv

        layer.forward = run

    return change


def row(weight: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(weight))[:, None]


def edited(find: Callable[[Any], Any], edit: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda network: set_weight(find(network), edit(find(network).weight))


@contextmanager
def patched(module: str, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """A function of litert-torch replaced by `change(function)`."""
    import importlib

    owner = importlib.import_module(f"litert_torch.generative.layers.{module}")
    with mock.patch.object(owner, name, change(getattr(owner, name))):
        yield


def sdpa(change: Callable[..., dict[str, Any]]) -> Any:
    """Attention with other arguments: `change(q, k, v, mask)` gives those to replace."""

    def wrap(original: Any) -> Any:
        def call(q: Any, k: Any, v: Any, head_size: int, **rest: Any) -> Any:
            given = {"q": q, "k": k, "v": v, "head_size": head_size, **rest}
            return original(**{**given, **change(q, k, v, rest.get("mask"))})

        return call

    return lambda: patched("scaled_dot_product_attention", "scaled_dot_product_attention_with_hlfb", wrap)


def interleaved(original: Any) -> Any:
    def apply(x: Any, cos: Any, sin: Any) -> Any:
        one, other = x[..., 0::2], x[..., 1::2]
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
        return torch.stack((one * cos - other * sin, other * cos + one * sin), -1).flatten(-2)

    return apply


CODE: dict[str, tuple[Change, str]] = {
    "norm_kind": (with_norm(lambda x, w: torch.nn.functional.layer_norm(x, x.shape[-1:], w, None, 1e-5)), "norm_kind"),
    "norm_zero_centred": (with_norm(lambda x, w: rms(x) * (1 + w)), "norm_zero_centred"),
    "norm_missing": (with_norm(lambda x, w: x), "norm_missing"),
    "norm_weight_default": (with_norm(lambda x, w: rms(x)), "norm_weight_default"),
    "norm_eps": (with_norm(lambda x, w: rms(x, 1e-3) * w), "norm_eps"),
    "activation gelu": (with_mlp(lambda act, g, u: torch.nn.functional.gelu(g) * u), "activation"),
    "activation tanh": (
        with_mlp(lambda act, g, u: torch.nn.functional.gelu(g, approximate="tanh") * u), "activation"),
    "activation quick": (with_mlp(lambda act, g, u: g * torch.sigmoid(1.702 * g) * u), "activation"),
    "activation relu": (with_mlp(lambda act, g, u: torch.relu(g) * u), "activation"),
    "activation_on_up": (with_mlp(lambda act, g, u: g * act(u)), "activation_on_up"),
    "gate_missing": (with_mlp(lambda act, g, u: act(g)), "gate_missing"),
    "residual_missing": (with_block(lambda x, a, norm, ff: (r := x + a) * 0 + ff(norm(r))), "residual_missing"),
    "branch_missing": (with_block(lambda x, a, norm, ff: x + ff(norm(x))), "branch_missing"),
    "residual_of_block_input": (with_block(lambda x, a, norm, ff: x + ff(norm(x + a))), "residual_of_block_input"),
    "bias_extra": (
        lambda n: setattr(attention(n).output_projection, "bias", torch.nn.Parameter(0.1 * torch.ones(128).cumsum(0))),
        "bias_extra",
    ),
    "constant_scale": (
        lambda n: setattr(block(n, 1), "post_atten_norm", Changed(block(n, 1).post_atten_norm, lambda x: x * 1.25)),
        "constant_scale",
    ),
    "constant_offset": (
        lambda n: setattr(block(n, 1), "post_atten_norm", Changed(block(n, 1).post_atten_norm, lambda x: x + 0.01)),
        "constant_offset",
    ),
    "value_rounded": (
        lambda n: setattr(block(n, 1), "post_atten_norm", Changed(
            block(n, 1).post_atten_norm, lambda x: x.bfloat16().float())),
        "value_rounded",
    ),
}  # fmt: skip

WEIGHTS: dict[str, tuple[Change, str]] = {
    "gate_up_swapped": (swap_gate_and_up, "gate_up_swapped"),
    "weight_transposed": (
        edited(lambda n: attention(n).output_projection, lambda w: w.T.reshape(w.shape)), "weight_transposed"),
    "weight_zeroed": (edited(lambda n: feed_forward(n).w2, torch.zeros_like), "weight_zeroed"),
    "weight_rounded bf16": (edited(lambda n: feed_forward(n).w2, lambda w: w.bfloat16().float()), "weight_rounded"),
    "weight_rounded fp16": (edited(lambda n: feed_forward(n).w1, lambda w: w.half().float()), "weight_rounded"),
    "weight_of_another_block": (
        lambda n: set_weight(feed_forward(n).w2, feed_forward(n, 0).w2.weight), "weight_of_another_block"),
    "norm of another block": (
        lambda n: set_weight(block(n, 1).pre_atten_norm, block(n, 0).pre_atten_norm.weight), "weight_of_another_block"),
    "channel_permutation": (
        edited(lambda n: feed_forward(n).w2, lambda w: w[torch.randperm(len(w), generator=torch.manual_seed(1))]),
        "channel_permutation",
    ),
    "channel_scale": (
        edited(lambda n: feed_forward(n).w2, lambda w: w * (1 + 0.01 * torch.randn(len(w), 1,
               generator=torch.manual_seed(1)))),
        "channel_scale",
    ),
    "one channel's scale": (
        edited(lambda n: feed_forward(n).w2, lambda w: w * (1 + 0.5 * (torch.arange(len(w)) == 5))[:, None]),
        "channel_scale",
    ),
    "weight_column": (
        edited(lambda n: feed_forward(n).w2, lambda w: torch.where(torch.arange(w.shape[1]) == 7, 0.0, w)),
        "weight_column",
    ),
    "weight_rows": (
        edited(lambda n: feed_forward(n).w2, lambda w: torch.where(row(w) == 7, w.roll(3, 1), w)),
        "weight_rows",
    ),
    "weight_differs": (jiggle(lambda n: feed_forward(n).w2), "weight_differs"),
    "head_permutation": (exchange_key_heads, "head_permutation"),
    "bias_missing": (lambda n: attention(n).qkv_projection.bias.zero_(), "bias_missing"),
    "not a number": (
        edited(lambda n: feed_forward(n).w2, lambda w: torch.where(row(w) == 7, math.nan, w)),
        "weight_rows",
    ),
}  # fmt: skip


FAST = ("norm_eps", "weight_of_another_block", "a bit of a weight")


def assert_first(what: str, found: Explained, name: str, equals: int = 1) -> None:
    """equals: how many hypotheses may come before it, with itself, that explain as well."""
    assert name in found.names[:equals], f"{what}: {found.names} at {found.fault.tap}"
    assert found.best.explains > 0.99
    assert found.best.excess_before is not None
    assert found.best.excess_after is not None
    assert found.best.excess_after < min(3.0, found.best.excess_before / 3)


def test_the_steps_between_taps_are_those_of_the_published_model() -> None:
    assert_covered("tiny_llama")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(main_models()) - {"tiny_llama"}))
def test_the_steps_between_taps_are_those_of_every_published_model(name: str) -> None:
    assert_covered(name)


def assert_covered(name: str) -> None:
    """Every tap of the oracle follows from the taps before it, to float32's rounding of the inputs."""
    model = bench(name)
    decoder = reference(model.model, model.prepared)
    folder = model.folder / "oracle-alone"
    model.trace("oracle", folder)
    for item in model.prepared.inputs:
        trace = Trace.open(folder / "oracle" / item.id)
        known = {tap: trace.load(tap)[0].astype(np.float64) for tap in trace.taps}
        known[TOKENS] = np.array(item.tokens)
        for tap in model.prepared.taps:
            made = Walk(decoder, known).compute(tap)
            assert made.shape == known[tap].shape, tap
            off = np.linalg.norm(made - known[tap]) / np.linalg.norm(known[tap])
            assert off < 1e-6, f"{tap} of {item.id} is off by {off:.2g}"


@pytest.mark.parametrize("what", [pytest.param(what, marks=() if what in FAST else slow) for what in CODE])
def test_a_mistake_in_the_code_is_named(what: str) -> None:
    change, name = CODE[what]
    assert_first(what, explain_reauthored(bench("tiny_llama"), change), name)


MODEL_OF = {"bias_missing": "qwen2_5"}


@pytest.mark.parametrize("what", [pytest.param(what, marks=() if what in FAST else slow) for what in WEIGHTS])
def test_a_wrong_weight_is_named(what: str) -> None:
    change, name = WEIGHTS[what]
    found = explain_reauthored(bench(MODEL_OF.get(what, "tiny_llama")), change)
    if what == "weight_differs":
        assert found.names == ["weight_differs"]
        assert found.best.explains > 0.1
    else:
        assert_first(what, found, name)


def every_attention(**changes: Any) -> Callable[[Any], None]:
    """Fields of all blocks' attention in the re-authored config."""

    def change(config: Any) -> None:
        blocks = config.block_configs if isinstance(config.block_configs, list) else [config.block_configs]
        for one in blocks:
            for name, value in changes.items():
                setattr(one.attn_config, name, value)

    return change


def other_positions(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Rotary tables built for other positions."""

    def with_positions(config: Any) -> None:
        build = config.build_rope
        config.build_rope = lambda positions, dims, base: build(change(positions), dims, base)

    return with_positions


def rope_without_scaling(config: Any) -> None:
    from litert_torch.generative.layers.rotary_position_embedding import build_rope

    config.build_rope = build_rope


def field(**changes: Any) -> Callable[[Any], None]:
    return lambda config: [setattr(config, name, value) for name, value in changes.items()]  # type: ignore[return-value]


def all_local(config: Any) -> None:
    config.block_configs[1].attn_config.attn_type = config.block_configs[0].attn_config.attn_type


CONFIG: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "rope base": ("tiny_llama", every_attention(rotary_base=500_000), "rope_base"),
    "rope base, slightly": ("tiny_llama", every_attention(rotary_base=10_010), "rope_base"),
    "rope scaling lost": ("llama3_2", rope_without_scaling, "rope_scaling"),
    "rope scaling, linear": ("tiny_llama", other_positions(lambda p: p / 4), "rope_scaling"),
    "rope percentage": ("tiny_llama", every_attention(rotary_percentage=0.5), "rope_percentage"),
    "rope percentage of phi2": ("phi2", every_attention(rotary_percentage=1.0), "rope_percentage"),
    "position offset": ("tiny_llama", other_positions(lambda p: p + 1), "position_offset"),
    "rope missing": ("tiny_llama", other_positions(lambda p: p * 0), "rope_missing"),
    "attention softcap missing": ("gemma2", every_attention(logit_softcap=None), "attention_softcap"),
    "attention softcap wrong": ("gemma2", every_attention(logit_softcap=30.0), "attention_softcap"),
    "attention softcap extra": ("tiny_llama", every_attention(logit_softcap=20.0), "attention_softcap"),
    "final softcap": ("gemma2", field(final_logit_softcap=50.0), "final_softcap"),
    "embedding scale lost": ("gemma2", field(embedding_scale=None), "embedding_scale"),
    "embedding scale": ("gemma2", field(embedding_scale=10.0), "embedding_scale"),
    # 4096 positions are 16 in the miniature.
    "window off by one": ("gemma2", every_attention(sliding_window_size=4096 + 256), "window"),
    "window twice": ("gemma2", every_attention(sliding_window_size=8192), "window"),
    "window on the wrong layer": ("gemma2", all_local, "window"),
    "fused q, k, v": ("tiny_llama", every_attention(qkv_fused_interleaved=False), "qkv_order"),
    "norm eps of gemma2": (
        "gemma2", lambda c: setattr(c.block_configs[0].pre_attention_norm_config, "epsilon", 1e-5), "norm_eps"),
    "query norm eps": (
        "qwen3", lambda c: setattr(c.block_config(0).attn_config.query_norm_config, "epsilon", 1e-3), "norm_eps"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", CONFIG)
def test_a_wrong_number_in_the_config_is_named(what: str) -> None:
    name, change, hypothesis = CONFIG[what]
    model = bench(name)
    assert_first(what, explain_reauthored(model, model=other_config(model.model, change)), hypothesis)


def tiled(heads: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return heads.repeat(1, 1, like.shape[2] // heads.shape[2], 1)


FUNCTIONS: dict[str, tuple[Any, str]] = {
    "attention scale": (sdpa(lambda q, k, v, mask: {"scale": 0.1}), "attention_scale"),
    "causal mask": (sdpa(lambda q, k, v, mask: {"mask": torch.zeros_like(mask)}), "causal_mask"),
    "repeated KV heads": (sdpa(lambda q, k, v, mask: {"k": tiled(k, q), "v": tiled(v, q)}), "kv_head_order"),
    "values alone": (sdpa(lambda q, k, v, mask: {"k": k.repeat_interleave(q.shape[2] // k.shape[2], 2),
                                                 "v": tiled(v, q)}), "kv_head_order"),
    "interleaved rope": (
        lambda: patched("rotary_position_embedding", "apply_rope", interleaved), "rope_interleaved"),
    "rope the other way": (
        lambda: patched("rotary_position_embedding", "apply_rope", lambda f: lambda x, cos, sin: f(x, cos, -sin)),
        "rope_direction",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", FUNCTIONS)
def test_a_mistake_in_what_all_blocks_call_is_named(what: str) -> None:
    broken, name = FUNCTIONS[what]
    with broken():
        found = explain_reauthored(bench("tiny_llama"))
    assert_first(what, found, name)


@pytest.mark.parametrize("name", ["tiny_llama", pytest.param("gemma2", marks=slow), pytest.param("phi2", marks=slow)])
def test_nothing_is_claimed_where_nothing_is_wrong(name: str) -> None:
    """At no tap of an unbroken model, on any hop."""
    model = bench(name)
    decoder = reference(model.model, model.prepared)
    item = model.prepared.inputs[-1]
    taps = model.prepared.taps if name != "tiny_llama" else model.prepared.taps[::4]
    tried = 0
    for hop in (FIRST, XNNPACK, BUILTIN):
        candidate = Trace.open(model.sound / hop.split("->")[1] / item.id)
        for tap in (tap for tap in taps if tap in candidate):
            tried += 1
            found = diagnose(gather(model.sound, hop, tap, item, decoder, model.prepared))
            assert not found, f"{hop} at {tap}: {found[0].detail}"
    assert tried > 25


def test_a_change_that_no_hypothesis_foresees_is_not_explained() -> None:
    """Every number a little off at random: nobody can say why, so nobody does."""

    def shaken(network: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        norm = block(network, 1).pre_atten_norm
        norm.forward = lambda x: rms(x) * norm.weight * (1 + 0.01 * torch.randn(x.shape, generator=generator))

    assert explain_reauthored(bench("tiny_llama"), shaken).names == []


def other_rope(config: dict[str, Any]) -> None:
    config["rope_parameters"]["rope_theta"] = 500_000.0


CHECKPOINT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "rope base": (other_rope, "rope_base"),
    "norm eps": (lambda config: config.update(rms_norm_eps=1e-6), "norm_eps"),
    "activation": (lambda config: config.update(hidden_act="gelu"), "activation"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CHECKPOINT)
def test_a_wrong_number_in_the_checkpoint_is_named(what: str) -> None:
    change, name = CHECKPOINT[what]
    assert_first(what, explain_checkpoint(bench("tiny_llama"), config=change), name)


def of_constant(name: str, change: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Bench, Path], None]:
    def edit(model: Bench, file: Path) -> None:
        values = model.constant(name)
        patch(file, values, np.asarray(change(values), np.float32))

    return edit


def one_bit(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return with_flip(values, typical_element(values))


DOWN = LAYER.format(1) + "mlp.down_proj.weight"
NORM = LAYER.format(1) + "input_layernorm.weight"
CONSTANTS: dict[str, tuple[Callable[[Bench, Path], None], str]] = {
    "a bit of a weight": (of_constant(DOWN, one_bit), "single_weight"),
    "a bit of q, k, v": (of_constant("qkv.1", one_bit), "single_weight"),
    "a bit of the head": (of_constant("lm_head.weight", one_bit), "single_weight"),
    "a bit of a norm": (of_constant(NORM, one_bit), "channel_scale"),
    "rounded to bfloat16": (of_constant(DOWN, to_bfloat16), "weight_rounded"),
    "rounded to float16": (of_constant(DOWN, to_float16), "weight_rounded"),
    "zeroed": (of_constant(DOWN, np.zeros_like), "weight_zeroed"),
    "of block 0": (
        lambda model, file: patch(file, model.constant(DOWN), model.constant(DOWN.replace(".1.", ".0."))),
        "weight_of_another_block",
    ),
    "a wrong scale of one channel": (
        of_constant(DOWN, lambda w: w * np.where(np.arange(len(w)) == 9, 2, 1)[:, None]), "channel_scale"),
    "scaled": (of_constant(DOWN, lambda w: w * 1.01), "constant_scale"),
    "all of it a little off": (of_constant(DOWN, lambda w: jiggled(torch.tensor(w)).numpy()), "weight_differs"),
}  # fmt: skip


@pytest.mark.parametrize("what", [pytest.param(what, marks=() if what in FAST else slow) for what in CONSTANTS])
def test_a_wrong_constant_of_the_flatbuffer_is_named(what: str) -> None:
    change, name = CONSTANTS[what]
    model = bench("tiny_llama")
    found = explain_flatbuffer(model, lambda file: change(model, file))
    assert found.fault.hop == XNNPACK
    if name == "weight_differs":
        assert found.names == [name]
    else:
        assert_first(what, found, name)


@pytest.mark.slow
def test_rows_of_the_embedding_are_named_by_their_tokens() -> None:
    model = bench("tiny_llama")
    values = model.constant("model.embed_tokens.weight")
    token = model.prepared.inputs[-1].tokens[3]
    broken = with_flip(values, (token, *typical_element(values[token])))
    found = explain_flatbuffer(model, lambda file: patch(file, values, broken))
    assert_first("a bit of the embedding", found, "embedding_rows")
    assert f"token {token}, channel" in found.best.detail


def test_every_hypothesis_is_listed_in_the_documents() -> None:
    text = (Path(__file__).parent.parent / "docs" / "explain.md").read_text()
    listed = set(re.findall(r"`([a-z_0-9]+)`", text[text.index("## Hypotheses") : text.index("is special")]))
    assert listed == {hypothesis.name for hypothesis in all_hypotheses()}
