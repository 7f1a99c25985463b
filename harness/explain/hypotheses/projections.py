"""What can be wrong in the weights of a linear layer: taken from elsewhere, changed, or a few numbers of them off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from harness.align.layout import HeadLayout, split_heads
from harness.align.naming import LINEAR_ROLES
from harness.explain import functions as f
from harness.explain.decoder import WHOLE
from harness.explain.evidence import Evidence
from harness.explain.functions import Array
from harness.explain.hypotheses import Proposal, hypothesis

ROLES = {**LINEAR_ROLES, "logits": "lm_head"}
NORMS = {"attn.norm": "pre_attention", "mlp.norm": "pre_mlp", "final_norm": "final_norm"}
WEIGHTED = (*ROLES, *NORMS, "attn.q_rope", "attn.k_rope", "residual", "out", "embed")


def roles(evidence: Evidence) -> list[tuple[str, int]]:
    """(role, block) of the matrices that act between the known taps and the fault."""
    found = [role for point, role in ROLES.items() if point in evidence.points]
    return [(role, WHOLE if role == "lm_head" else evidence.block) for role in found]


def weighted(evidence: Evidence) -> list[tuple[str, int]]:
    """The same with norms and the embedding."""
    found = [(slot, WHOLE if slot == "final_norm" else evidence.block) for slot in evidence.norm_slots()]
    embedding = [("embedding", WHOLE)] if "embed" in evidence.points else []
    return [*roles(evidence), *found, *embedding]


@hypothesis("weight_transposed", *ROLES)
def transposed(evidence: Evidence) -> Iterator[Proposal]:
    for role, block in roles(evidence):
        weight = evidence.decoder.weights.need(role, block)
        name = f"{evidence.module(role)}.weight"
        if weight.shape[0] == weight.shape[1]:
            changed = evidence.decoder.with_weight(role, block, weight.T)
            yield Proposal(
                f"{name} is transposed in {evidence.candidate}", f"transpose {name}", evidence.predict(changed)
            )
        flat = weight.T.reshape(weight.shape)  # the bytes of the transpose under the old shape
        yield Proposal(
            f"{evidence.candidate} reads {name} as if its bytes lay transposed",
            f"store {name} as [out, in]",
            evidence.predict(evidence.decoder.with_weight(role, block, flat)),
        )


@hypothesis("weight_of_another_block", *WEIGHTED)
def of_another_block(evidence: Evidence) -> Iterator[Proposal]:
    for role, block in weighted(evidence):
        own = evidence.decoder.weights.get(role, block)
        if block == WHOLE or own is None:
            continue
        for other in range(len(evidence.decoder.structure.layers)):
            weight = evidence.decoder.weights.get(role, other)
            if other == block or weight is None or weight.shape != own.shape:
                continue
            changed = evidence.decoder.with_weight(role, block, weight)
            bias = evidence.decoder.weights.get(f"{role}.bias", other)
            names = [f"{evidence.decoder.modules.get(role, role).format(number)}.weight" for number in (block, other)]
            for both in [False, True] if bias is not None else [False]:
                yield Proposal(
                    f"{evidence.candidate} has {names[1]} in place of {names[0]}",
                    f"load {names[0]} into block {block}",
                    evidence.predict(changed.with_weight(f"{role}.bias", block, bias) if both else changed),
                )


@hypothesis("weight_of_another_module", *ROLES)
def of_another_module(evidence: Evidence) -> Iterator[Proposal]:
    weights = evidence.decoder.weights
    for role, block in roles(evidence):
        own = weights.need(role, block)
        others = ("embedding",) if role == "lm_head" else ("q", "k", "v", "o", "gate", "up", "down")
        for other in others:
            weight = weights.get(other, block)
            if other == role or {other, role} == {"gate", "up"} or weight is None or weight.shape != own.shape:
                continue
            names = f"{evidence.module(other)}.weight", f"{evidence.module(role)}.weight"
            yield Proposal(
                f"{evidence.candidate} has {names[0]} in place of {names[1]}",
                f"load {names[1]} where it belongs",
                evidence.predict(evidence.decoder.with_weight(role, block, weight)),
            )


@hypothesis("weight_zeroed", *WEIGHTED)
def zeroed(evidence: Evidence) -> Iterator[Proposal]:
    for role, block in weighted(evidence):
        weight = evidence.decoder.weights.get(role, block)
        if weight is not None:
            name = f"{evidence.module(role)}.weight"
            yield Proposal(
                f"{name} is all zeros in {evidence.candidate}",
                f"load {name}",
                evidence.predict(evidence.decoder.with_weight(role, block, np.zeros_like(weight))),
            )


def _int8(weight: Array) -> Array:
    """Rounded to 255 levels for each output channel."""
    scale = np.abs(weight).reshape(len(weight), -1).max(1) / 127
    scale = np.where(scale > 0, scale, 1.0).reshape(-1, *[1] * (weight.ndim - 1))
    return np.asarray(np.round(weight / scale) * scale)


@hypothesis("weight_rounded", *WEIGHTED)
def rounded(evidence: Evidence) -> Iterator[Proposal]:
    for role, block in weighted(evidence):
        weight = evidence.decoder.weights.get(role, block)
        if weight is None:
            continue
        name = f"{evidence.module(role)}.weight"
        kinds: dict[str, Callable[[Array], Array]] = {"bfloat16": f.to_bfloat16, "float16": f.to_float16}
        if weight.ndim > 1:
            kinds["int8 for each output channel"] = _int8
        for kind, to_kind in kinds.items():
            changed = to_kind(weight)
            if not np.array_equal(changed, weight):
                yield Proposal(
                    f"{name} is rounded to {kind} in {evidence.candidate}",
                    f"keep {name} in float32",
                    evidence.predict(evidence.decoder.with_weight(role, block, changed)),
                )


@hypothesis("bias_missing", *ROLES, *NORMS)
def bias_missing(evidence: Evidence) -> Iterator[Proposal]:
    for role, block in weighted(evidence):
        if evidence.decoder.weights.get(f"{role}.bias", block) is not None:
            name = f"{evidence.module(role)}.bias"
            yield Proposal(
                f"{evidence.candidate} does not add {name}",
                f"add {name}",
                evidence.predict(evidence.decoder.with_weight(f"{role}.bias", block, None)),
            )


@hypothesis("qkv_order", "attn.q", "attn.k", "attn.v")
def qkv_order(evidence: Evidence) -> Iterator[Proposal]:
    """Rows of a fused projection that are laid out in one way and split in another."""
    layer, block = evidence.decoder.layer(evidence.block), evidence.block
    parts = [evidence.decoder.weights.get(role, block) for role in "qkv"]
    if any(part is None for part in parts):
        return
    layouts = [HeadLayout(layer.heads, layer.kv_heads, layer.head_dim, flag) for flag in (False, True)]
    words = {False: "plain [Q | K | V]", True: "interleaved [Q K V] per KV head"}
    biases = [evidence.decoder.weights.get(f"{role}.bias", block) for role in "qkv"]
    for laid, split in ((layouts[0], layouts[1]), (layouts[1], layouts[0])):
        changed = evidence.decoder
        for kind, values in (("", parts), (".bias", biases)):
            if any(part is None for part in values):
                continue
            fused = _fused(values, laid)  # type: ignore[arg-type]
            for role in "qkv":
                rows = split_heads(fused.reshape(len(fused), -1).T[None], role, split)
                taken = rows.reshape(rows.shape[1], -1).T.reshape(-1, *fused.shape[1:])
                changed = changed.with_weight(f"{role}{kind}", block, taken)
        yield Proposal(
            f"the fused q, k, v projection is laid out {words[laid.interleaved]} and split as "
            f"{words[split.interleaved]} in {evidence.candidate}",
            "set qkv_fused_interleaved to how the checkpoint's rows are laid out",
            evidence.predict(changed),
        )


def _fused(parts: list[Array], layout: HeadLayout) -> Array:
    if not layout.interleaved:
        return np.concatenate(parts)
    grouped = [part.reshape(layout.kv_heads, -1, *part.shape[1:]) for part in parts]
    return np.concatenate(grouped, axis=1).reshape(-1, *parts[0].shape[1:])
