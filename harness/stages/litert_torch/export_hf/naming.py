"""Where a published model keeps what is compared, read off the model that transformers builds of its config.

In: a network of transformers, without memory. Out: `ModuleNames`, or a UsageError where its blocks are not known.

Modules are known by what transformers calls them inside a block, whatever the classes are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.align.modules import ModuleNames
from harness.errors import UsageError

_PLACE = "{}"
# Entry of `ModuleNames` -> what a module of it is called inside a block, the first that is there.
_INSIDE: Mapping[str, tuple[str, ...]] = {
    "attn_query_proj": ("self_attn.q_proj", "attention.q_proj", "attn.q_proj"),
    "attn_key_proj": ("self_attn.k_proj", "attention.k_proj", "attn.k_proj"),
    "attn_value_proj": ("self_attn.v_proj", "attention.v_proj", "attn.v_proj"),
    "attn_fused_qkv_proj": ("self_attn.qkv_proj", "self_attention.query_key_value", "attn.c_attn"),
    "attn_output_proj": (
        "self_attn.o_proj",
        "self_attn.out_proj",
        "self_attn.dense",
        "self_attention.dense",
        "attn.c_proj",
    ),
    "attn_query_norm": ("self_attn.q_norm", "self_attn.q_layernorm"),
    "attn_key_norm": ("self_attn.k_norm", "self_attn.k_layernorm"),
    "ff_gate_proj": ("mlp.gate_proj", "feed_forward.w1"),
    "ff_up_proj": (
        "mlp.up_proj",
        "mlp.gate_up_proj",
        "feed_forward.w3",
        "mlp.fc1",
        "mlp.c_fc",
        "mlp.dense_h_to_4h",
    ),
    "ff_down_proj": ("mlp.down_proj", "feed_forward.w2", "mlp.fc2", "mlp.c_proj", "mlp.dense_4h_to_h"),
    "pre_attn_norm": ("input_layernorm", "operator_norm", "ln_1"),
    "post_attn_norm": ("post_attention_layernorm", "ffn_norm", "ln_2"),
    "pre_ff_norm": ("pre_feedforward_layernorm",),
    "post_ff_norm": ("post_feedforward_layernorm",),
}
_FINAL = ("norm", "embedding_norm", "final_layernorm", "ln_f")
_NEEDED = ("attn_output_proj", "ff_down_proj", "pre_attn_norm")
_BLOCK = re.compile(r"^(.*?\.)(\d+)(\..+)$")
FUSED_GATE = "gate_up_proj"


def names_of(network: Any, what: str) -> ModuleNames:
    """The names of a network, a `PreTrainedModel`. what: the model's name, for people.

    Raises UsageError where a block has no module of a name that is known here.
    """
    paths = [path for path, _ in network.named_modules() if path]
    inside = _inside(paths)
    found = {entry: path for entry, tails in _INSIDE.items() if (path := _first(inside, tails)) is not None}
    lacking = [entry for entry in _NEEDED if entry not in found]
    projections = {"attn_query_proj", "attn_key_proj", "attn_value_proj"}
    if lacking or not ("attn_fused_qkv_proj" in found or projections <= found.keys()):
        kind = getattr(network.config, "model_type", type(network).__name__)
        raise UsageError(
            f"{what}: no block of a '{kind}' model has modules that are known here "
            f"(no {', '.join(lacking or sorted(projections))}); declare an ExportHFModel with `names` "
            "(docs/export-hf.md)"
        )
    ends = {"embedding": network.get_input_embeddings(), "lm_head": network.get_output_embeddings()}
    called = {id(module): path for path, module in network.named_modules()}
    found |= {entry: called[id(module)] for entry, module in ends.items() if id(module) in called}
    final = _final_norm(paths)
    return ModuleNames(**found, **({"final_norm": final} if final else {}))


def fuses_gate(names: ModuleNames) -> bool:
    """Whether one projection holds the MLP's gate and up."""
    return (names.ff_up_proj or "").endswith(FUSED_GATE)


def _inside(paths: Iterable[str]) -> dict[str, str]:
    """What is called so inside a block -> its path with a place for the block's number, of the outermost list."""
    found: dict[str, str] = {}
    for path in paths:
        if match := _BLOCK.match(path):
            found.setdefault(match[3].removeprefix("."), f"{match[1]}{_PLACE}{match[3]}")
    return found


def _first(inside: Mapping[str, str], tails: Sequence[str]) -> str | None:
    return next((inside[tail] for tail in tails if tail in inside), None)


def _final_norm(paths: Sequence[str]) -> str | None:
    """The norm beside the list of blocks."""
    homes = {match[1].rstrip(".").rpartition(".")[0] for path in paths if (match := _BLOCK.match(path))}
    wanted = [f"{home}.{name}".lstrip(".") for home in sorted(homes) for name in _FINAL]
    return next((path for path in wanted if path in paths), None)
