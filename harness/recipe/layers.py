"""What can be chosen for each layer, of what was measured. Pure but for reading the float32 file's names.

In: costs and sizes by recipe. Out: options by layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.align.plan import AlignmentPlan
from harness.align.weights import file_weights
from harness.flatbuffer.quantise import scope_of
from harness.flatbuffer.reader import FlatbufferModel
from harness.names.stages import FLOAT
from harness.names.taps import EMBED, LOGITS
from harness.recipe.knapsack import LayerOption
from harness.recipe.rules import LayerOperator
from harness.record.sensitivity import AloneCosts

_FLOAT_BYTES = 4


def options_of(
    costs: Mapping[str, AloneCosts], bits: Mapping[str, Mapping[str, int]], mb: Mapping[str, float], float32_mb: float
) -> dict[str, list[LayerOption]]:
    """Layer -> what it can be: each recipe that was tried, and float32.

    bits: recipe -> layer -> of a number. mb: of each recipe's file, in 10^6 bytes. What its scales take is what the
    file takes beyond its numbers, shared out by size.
    """
    sizes = {layer.layer: layer.size for one in costs.values() for layer in one.layers}
    found = {layer: [LayerOption(FLOAT, _FLOAT_BYTES * size, 0.0)] for layer, size in sizes.items()}
    every = sum(sizes.values())
    for recipe, of in costs.items():
        numbers = {one.layer: one.size * bits[recipe][one.layer] / 8 for one in of.layers}
        rest = float32_mb * 1e6 - _FLOAT_BYTES * every
        scales = max(0.0, mb[recipe] * 1e6 - rest - sum(numbers.values()))
        for one in of.layers:
            cost = float("inf") if one.kl is None else one.kl
            found[one.layer].append(LayerOption(recipe, numbers[one.layer] + scales * one.size / every, cost))
    return found


def operators_of(file: Path, plan: Path, layers: Mapping[str, object]) -> dict[str, list[LayerOperator]]:
    """Layer -> the operators that take its weight, in every signature; those of the head too for a shared constant."""
    model = FlatbufferModel(file)
    found: dict[str, list[LayerOperator]] = {}
    for graph, weight in file_weights(model, AlignmentPlan.read(plan).sources):
        layer = EMBED if weight.layer == LOGITS and LOGITS not in layers else weight.layer
        found.setdefault(layer, []).append(LayerOperator(weight.operator.kind, scope_of(graph, weight.operator)))
    return found
