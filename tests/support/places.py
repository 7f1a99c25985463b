"""Places in a miniature where tests make things wrong: weights by their names, modules with the tap that shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.bench.breaking import Change, jiggled, set_weight
from harness.stages.litert_torch.faults.rewiring import block

LAYER = "model.layers.{}."
GATE, UP, DOWN = (LAYER + f"mlp.{part}_proj.weight" for part in ("gate", "up", "down"))

MODULES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "pre_atten_norm": (lambda n: block(n, 1).pre_atten_norm, "block.1.attn.norm"),
    "qkv_projection": (lambda n: block(n, 1).atten_func.qkv_projection, "block.1.attn.q"),
    "output_projection": (lambda n: block(n, 1).atten_func.output_projection, "block.1.attn.out"),
    "post_atten_norm": (lambda n: block(n, 1).post_atten_norm, "block.1.mlp.norm"),
    "w1": (lambda n: block(n, 1).ff.w1, "block.1.mlp.gate"),
    "w3": (lambda n: block(n, 1).ff.w3, "block.1.mlp.up"),
    "w2": (lambda n: block(n, 1).ff.w2, "block.1.mlp.out"),
    "final_norm": (lambda n: n.final_norm, "final_norm"),
    "lm_head": (lambda n: n.lm_head, "logits"),
}


def jiggle(find: Callable[[Any], Any], relative: float = 1e-4, seed: int = 0) -> Change:
    """Every number of a module's matrix a little off."""
    return lambda network: set_weight(find(network), jiggled(find(network).weight, relative, seed))
