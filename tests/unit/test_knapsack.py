"""Which recipe for which layer: the choice is the best one that fits, as trying every choice shows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping

import pytest

from harness.recipe.knapsack import Frontier, LayerOption

Layers = dict[str, list[LayerOption]]


def layers_of(seed: int) -> Layers:
    chance = random.Random(seed)
    return {
        f"layer.{number}": [
            LayerOption("none", 4000.0, 0.0),
            LayerOption("int8", 1000.0 + chance.random() * 50, chance.random() * 1e-3),
            LayerOption("int4", 500.0 + chance.random() * 50, chance.random() * 1e-1),
        ]
        for number in range(6)
    }


def total(layers: Layers, recipes: Mapping[str, str]) -> tuple[float, float]:
    """Of a choice: (bytes, cost)."""
    of = {layer: {option.recipe: option for option in options} for layer, options in layers.items()}
    chosen = [of[layer][recipe] for layer, recipe in recipes.items()]
    return sum(one.size for one in chosen), sum(one.cost for one in chosen)


def least_cost(layers: Layers, size: float) -> float:
    every = itertools.product(*layers.values())
    return min(sum(one.cost for one in choice) for choice in every if sum(one.size for one in choice) <= size + 1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.8, 1.0])
def test_no_choice_that_fits_costs_less(seed: int, share: float) -> None:
    layers = layers_of(seed)
    frontier = Frontier(layers)
    size = frontier.least + share * (frontier.most - frontier.least)
    found = frontier.within(size)
    assert found is not None
    assert (found.size, found.cost) == pytest.approx(total(layers, found.recipes))
    assert found.size <= size + 1e-6
    slack = 2e-3 * (frontier.most - frontier.least)  # what counting in steps may lose
    highest = least_cost(layers, max(frontier.least, size - slack))
    assert least_cost(layers, size) - 1e-12 <= found.cost <= highest + 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_choice_that_keeps_a_cost(seed: int) -> None:
    frontier = Frontier(layers_of(seed))
    found = frontier.cheaper_than(1e-2)
    assert found is not None
    assert found.cost <= 1e-2
    smaller = frontier.within(found.size - 2e-3 * (frontier.most - frontier.least))
    assert smaller is None or smaller.cost > 1e-2


def test_what_cannot_fit_is_none() -> None:
    frontier = Frontier(layers_of(0))
    assert frontier.within(frontier.least - 1) is None
    assert frontier.cheaper_than(-1.0) is None


def test_a_cost_that_is_not_finite_is_never_chosen() -> None:
    options = [LayerOption("none", 40.0, 0.0), LayerOption("broken", 5.0, float("inf")), LayerOption("int8", 10.0, 0.1)]
    frontier = Frontier({"a": options})
    for size in (10.0, 20.0, 40.0):
        found = frontier.within(size)
        assert found is not None
        assert found.recipes["a"] == ("none" if size == 40.0 else "int8")


def test_an_option_that_is_larger_and_dearer_is_never_chosen() -> None:
    options = [LayerOption("none", 40.0, 0.0), LayerOption("int8", 10.0, 0.1), LayerOption("worse", 11.0, 0.2)]
    found = Frontier({"a": options}).within(11.0)
    assert found is not None
    assert found.recipes == {"a": "int8"}
