"""Mistakes that people make, each with the hypothesis that names it: in code, weights, configs and constants.

In: nothing. Out: tables of changes, for the tests that break a miniature with them.

The catalogue of the bench is the list of mistakes, and the tables take from it what it has; a mistake is made in
another model than the catalogue's where that model is converted anyway. Those of the `_OWN` tables are not in it: they
are variants of its entries, or are made in the loaded network where the catalogue makes them in the declaration. They
show that a hypothesis names them; in the catalogue, near copies would count twice in the share of faults found.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from places import DOWN, jiggle

from harness.bench.breaking import Change, set_weight
from harness.bench.catalogue import all_faults
from harness.bench.mistake import Config, Constant, Exchange, Network
from harness.bench.reseed import patch
from harness.bench.workbench import Bench
from harness.stages.litert_torch.faults.config import attention as attention_config
from harness.stages.litert_torch.faults.rewiring import after, attention_called, block, first_norm, mlp, patched, rms
from harness.stages.litert_torch.faults.weights import edited, embedding, output, shuffled, w2

_CATALOGUE = {fault.id: fault for fault in all_faults()}
Around = Callable[[], AbstractContextManager[Any]]


def cause(fault: str) -> str:
    """The hypothesis that says best what a fault of the catalogue is."""
    return _CATALOGUE[fault].causes[0]


def network(fault: str) -> Change:
    """What a fault of the catalogue does to the loaded network."""
    site = _CATALOGUE[fault].site
    assert isinstance(site, Network)
    return site.change


def around(fault: str) -> Around:
    """Within what a fault of the catalogue has the network run."""
    site = _CATALOGUE[fault].site
    assert isinstance(site, Network)
    return site.around


def config(fault: str) -> Change:
    """What a fault of the catalogue does to the re-authored config."""
    site = _CATALOGUE[fault].site
    assert isinstance(site, Config)
    return site.change


def constant(fault: str) -> Constant:
    """Which weight of the flatbuffer a fault of the catalogue changes, and how."""
    site = _CATALOGUE[fault].site
    assert isinstance(site, Constant)
    return site


def exchange(fault: str) -> Exchange:
    """Which two weights of the flatbuffer a fault of the catalogue puts in each other's place."""
    site = _CATALOGUE[fault].site
    assert isinstance(site, Exchange)
    return site


def _networks(kind: str, faults: dict[str, str]) -> dict[str, tuple[Change, str]]:
    return {what: (network(f"{kind}/{name}"), cause(f"{kind}/{name}")) for what, name in faults.items()}


# --- code of one block -----------------------------------------------------------------------------------------------

_OWN_CODE: dict[str, tuple[Change, str]] = {
    "norm_weight_default": (first_norm(lambda x, w: rms(x)), "norm_weight_default"),
    "norm_eps": (first_norm(lambda x, w: rms(x, 1e-3) * w), "norm_eps"),
    "activation tanh": (
        mlp(lambda act, g, u: torch.nn.functional.gelu(g, approximate="tanh") * u), "activation"),
    "activation relu": (mlp(lambda act, g, u: torch.relu(g) * u), "activation"),
    "zeroed": (mlp(lambda act, g, u: g * 0), "zeroed"),
    "clamped": (after(block, "post_atten_norm", torch.relu), "clamped"),
}  # fmt: skip

CODE = _OWN_CODE | _networks(
    "re-authored-code",
    {
        "norm_kind": "layer-norm",
        "norm_zero_centred": "norm-one-plus",
        "norm_missing": "norm-missing",
        "activation gelu": "gelu",
        "activation quick": "gelu-quick",
        "activation_on_up": "activation-on-up",
        "gate_missing": "gate-only",
        "residual_missing": "second-residual-missing",
        "branch_missing": "attention-missing",
        "residual_of_block_input": "residual-of-input",
        "bias_extra": "bias-extra",
        "constant_scale": "scale-extra",
        "constant_offset": "offset-extra",
        "value_rounded": "rounded-activations",
    },
)


def gelu_for_silu(network: Any) -> None:
    """In block 0, so that another fault can stand behind it: the catalogue's is in block 1."""
    block(network, 0).ff.act = torch.nn.functional.gelu


# --- weights of the loaded network -----------------------------------------------------------------------------------


def gate_and_up_exchanged(network: Any) -> None:
    ff = block(network, 1).ff
    ff.w1, ff.w3 = ff.w3, ff.w1


def output_projection_of_another_block(network: Any) -> None:
    set_weight(output(network), block(network, 0).atten_func.output_projection.weight)


_OWN_WEIGHTS: dict[str, tuple[Change, str]] = {
    # In the catalogue these are names or loaders of a declaration.
    "gate_up_swapped": (gate_and_up_exchanged, "gate_up_swapped"),
    "weight_transposed": (edited(output, lambda w: w.T.reshape(w.shape)).change, "weight_transposed"),
    "weight_of_another_block": (
        lambda n: set_weight(block(n, 1).ff.w2, block(n, 0).ff.w2.weight), "weight_of_another_block"),
    "norm of another block": (
        lambda n: set_weight(block(n, 1).pre_atten_norm, block(n, 0).pre_atten_norm.weight), "weight_of_another_block"),
    "channel_permutation": (edited(w2, shuffled).change, "channel_permutation"),
    # These it does not have.
    "weight_of_another_module": (lambda n: set_weight(n.lm_head, n.tok_embedding.weight), "weight_of_another_module"),
    "embedding_token_offset": (edited(embedding, lambda w: w.roll(-1, 0)).change, "embedding_token_offset"),
    "weight_differs": (jiggle(w2), "weight_differs"),
}  # fmt: skip

WEIGHTS = _OWN_WEIGHTS | _networks(
    "weights",
    {
        "weight_zeroed": "zeroed",
        "weight_rounded bf16": "bfloat16",
        "weight_rounded fp16": "float16",
        "channel_scale": "channel-scales",
        "one channel's scale": "one-channel",
        "weight_column": "column",
        "weight_rows": "row",
        "head_permutation": "key-heads",
        "bias_missing": "bias-zeroed",
        "not a number": "nan",
    },
)

# --- the re-authored config ------------------------------------------------------------------------------------------

_IN_CONFIG = {
    "rope base": ("tiny_llama", "rope-base"),
    "rope base, slightly": ("tiny_llama", "rope-base-slightly"),
    "rope scaling lost": ("llama3_2", "rope-scaling-lost"),
    "rope scaling, linear": ("tiny_llama", "rope-scaling-linear"),
    "rope percentage": ("tiny_llama", "rope-half"),
    "rope percentage of phi2": ("phi2", "rope-whole"),
    "position offset": ("tiny_llama", "position-offset"),
    "rope missing": ("tiny_llama", "rope-missing"),
    "attention softcap missing": ("gemma2", "attention-softcap-missing"),
    "attention softcap wrong": ("gemma2", "attention-softcap-wrong"),
    "attention softcap extra": ("tiny_llama", "attention-softcap-extra"),
    "final softcap": ("gemma2", "final-softcap"),
    "embedding scale lost": ("gemma2", "embedding-scale-lost"),
    "embedding scale": ("gemma2", "embedding-scale"),
    "window off by one": ("gemma2", "window-off-by-one"),
    "window twice": ("gemma2", "window-twice"),
    "window on the wrong layer": ("gemma2", "window-everywhere"),
    "fused q, k, v": ("tiny_llama", "qkv-order"),
    "norm eps of gemma2": ("gemma2", "norm-eps-gemma2"),
    "query norm eps": ("qwen3", "query-norm-eps"),
}
CONFIG: dict[str, tuple[str, Change, str]] = {
    "rope of the other layers": ("gemma3", attention_config(rotary_base=10_000), "rope_base_of_another_layer"),
} | {
    what: (model, config(f"re-authored-config/{name}"), cause(f"re-authored-config/{name}"))
    for what, (model, name) in _IN_CONFIG.items()
}

# --- what all blocks call --------------------------------------------------------------------------------------------


def without_key(mask: torch.Tensor, key: int) -> torch.Tensor:
    """A mask that hides one key from every position after it."""
    mask = mask.clone()
    mask[..., key] = -torch.inf
    return mask


def across(original: Any) -> Any:
    def call(*args: Any, **rest: Any) -> Any:
        made = original(*args, **rest)
        return made.transpose(2, 3).reshape(made.shape)

    return call


_OWN_FUNCTIONS: dict[str, tuple[Around, str]] = {
    "another mask": (attention_called(lambda q, k, v, mask: {"mask": without_key(mask, 3)}), "mask"),
    "heads across": (
        lambda: patched("scaled_dot_product_attention", "scaled_dot_product_attention_with_hlfb", across),
        "context_head_order",
    ),
}  # fmt: skip
_CALLED = {
    "attention scale": "attention-scale",
    "causal mask": "mask-missing",
    "repeated KV heads": "kv-heads-tiled",
    "values alone": "value-heads-tiled",
    "interleaved rope": "rope-interleaved",
    "rope the other way": "rope-reversed",
}
FUNCTIONS: dict[str, tuple[Around, str]] = _OWN_FUNCTIONS | {
    what: (around(f"re-authored-code/{name}"), cause(f"re-authored-code/{name}")) for what, name in _CALLED.items()
}

# --- constants of the flatbuffer -------------------------------------------------------------------------------------

Edit = Callable[[Bench, Path], None]


def edit_of(made: Constant) -> Edit:
    def edit(model: Bench, file: Path) -> None:
        values = model.constant(made.name)
        patch(file, values, np.asarray(made.change(values), np.float32))

    return edit


def _down_of_block_0(model: Bench, file: Path) -> None:
    """The catalogue exchanges the two."""
    patch(file, model.constant(DOWN.format(1)), model.constant(DOWN.format(0)))


_OF_THE_FILE = {
    "a bit of a weight": "flatbuffer-constants/bit-of-down",
    "a bit of q, k, v": "flatbuffer-constants/bit-of-qkv",
    "a bit of the head": "flatbuffer-constants/bit-of-head",
    "a bit of a norm": "flatbuffer-constants/bit-of-norm",
    "rounded to bfloat16": "flatbuffer-constants/bfloat16",
    "rounded to float16": "runtime/half-precision-weights",
    "zeroed": "flatbuffer-constants/zeroed",
    "a wrong scale of one channel": "flatbuffer-constants/channel-scale",
    "scaled": "flatbuffer-constants/scaled",
    "all of it a little off": "flatbuffer-constants/matrix-1e-4",
}
CONSTANTS: dict[str, tuple[Edit, str]] = {"of block 0": (_down_of_block_0, "weight_of_another_block")} | {
    what: (edit_of(constant(fault)), cause(fault)) for what, fault in _OF_THE_FILE.items()
}

# --- the config of the checkpoint that Hugging Face loads; the catalogue breaks none ---------------------------------


def other_rope(factor: float) -> Change:
    return lambda config: config["rope_parameters"].update(rope_theta=config["rope_parameters"]["rope_theta"] * factor)


PUBLISHED: dict[str, tuple[Change, str, str]] = {
    "rope base 10000 -> 500000": (other_rope(50), "block.0.attn.q_rope", "rope_base"),
    "rope base 10000 -> 10010": (other_rope(1.001), "block.0.attn.q_rope", "rope_base"),
    "norm eps 1e-5 -> 1e-6": (lambda config: config.update(rms_norm_eps=1e-6), "block.0.attn.norm", "norm_eps"),
    "activation silu -> gelu": (lambda config: config.update(hidden_act="gelu"), "block.0.mlp.act", "activation"),
}  # fmt: skip
