"""What can be wrong in a feed forward."""

from __future__ import annotations

from collections.abc import Iterator

from harness.explain import functions as f
from harness.explain.decoder import Walk
from harness.explain.evidence import Evidence
from harness.explain.functions import Array
from harness.explain.hypotheses import Proposal, hypothesis

_WORDS = {
    "silu": "SiLU",
    "gelu": "the exact GELU",
    "gelu_tanh": "GELU by its tanh approximation",
    "gelu_quick": "the quick GELU, x sigmoid(1.702 x)",
    "relu": "ReLU",
    "linear": "no activation",
}


@hypothesis("activation", "mlp.act")
def activation(evidence: Evidence) -> Iterator[Proposal]:
    published = evidence.decoder.layer(evidence.block).activation
    for kind in f.ACTIVATIONS:
        if kind != published:
            yield Proposal(
                f"the published activation is {_WORDS[published]}, {evidence.candidate} computes {_WORDS[kind]}",
                f"set the activation to {_WORDS[published]}",
                evidence.predict(evidence.decoder.with_layer(evidence.block, activation=kind)),
            )


@hypothesis("activation_on_up", "mlp.act")
def activation_on_the_wrong_side(evidence: Evidence) -> Iterator[Proposal]:
    layer = evidence.decoder.layer(evidence.block)
    if not layer.gated:
        return

    def swapped(walk: Walk, block: int) -> Array:
        return f.activation(layer.activation, walk.at(block, "mlp.up")) * walk.at(block, "mlp.gate")

    yield Proposal(
        f"{evidence.candidate} applies the activation to up and not to gate",
        "apply the activation to the gate projection's output",
        evidence.predict(evidence.decoder.with_step("mlp.act", swapped)),
    )


@hypothesis("gate_missing", "mlp.act")
def product_missing(evidence: Evidence) -> Iterator[Proposal]:
    layer = evidence.decoder.layer(evidence.block)
    if not layer.gated:
        return
    for source, other in (("gate", "up"), ("up", "gate")):

        def alone(walk: Walk, block: int, source: str = source) -> Array:
            return f.activation(layer.activation, walk.at(block, f"mlp.{source}"))

        yield Proposal(
            f"{evidence.candidate} takes the activation of {source} alone, without the product with {other}",
            "multiply the activated gate by up",
            evidence.predict(evidence.decoder.with_step("mlp.act", alone)),
        )


@hypothesis("gate_up_swapped", "mlp.gate", "mlp.up")
def gate_and_up_swapped(evidence: Evidence) -> Iterator[Proposal]:
    decoder, block = evidence.decoder, evidence.block
    gate, up = (decoder.weights.get(role, block) for role in ("gate", "up"))
    if gate is None or up is None:
        return
    swapped = decoder.with_weight("gate", block, up).with_weight("up", block, gate)
    yield Proposal(
        f"gate and up are swapped: {evidence.candidate} uses {evidence.module('up')} as gate",
        "swap ff_gate_proj and ff_up_proj in tensor_names, or w1 and w3",
        evidence.predict(swapped),
    )
