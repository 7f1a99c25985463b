"""Numbers that fit: found wherever they lie, and given up early where nothing of use can be found."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from harness.explain.fit import best_number, search

START = [2.0**power for power in range(-8, 9)]
Loss = Callable[[float], float]


def counted(loss: Loss) -> tuple[Loss, list[float]]:
    asked: list[float] = []

    def count(value: float) -> float:
        asked.append(value)
        return loss(value)

    return count, asked


def valley(lowest: float, depth: float) -> Loss:
    """Steep walls from 1e6 down to `depth` at `lowest`."""
    return lambda value: math.hypot(depth, 1e5 * math.log(value / lowest))


@pytest.mark.parametrize("lowest", [0.003, 0.3712, 1.0, 5.0, 333.0, 500.0])
def test_a_number_that_is_of_use_is_found_as_without_a_limit(lowest: float) -> None:
    loss = valley(lowest, depth=1.0)
    assert search(loss, START, useful=100.0) == search(loss, START)
    assert search(loss, START) == pytest.approx(lowest, rel=1e-5)


def test_a_search_ends_where_the_valley_is_too_shallow() -> None:
    whole, every = counted(valley(3.3, depth=5e4))
    search(whole, START)
    short, few = counted(valley(3.3, depth=5e4))
    found = search(short, START, useful=1e4)
    assert short(found) > 1e4
    assert len(few) < len(every) / 2


@pytest.mark.parametrize("lowest", [1.0001, 0.9999, 1.4, 3.3])
def test_a_valley_that_levels_off_is_searched_to_its_bottom(lowest: float) -> None:
    """Errors cannot grow without end: the walls of a narrow valley are steep near its bottom alone."""

    def loss(value: float) -> float:
        size = valley(lowest, depth=1.0)(value)
        return size / (1 + size / 1e4)

    assert search(loss, START, useful=2.0) == pytest.approx(lowest, rel=1e-5)


def test_no_limit_that_can_be_met_ends_a_search() -> None:
    """However narrow the valley: what can be claimed is looked for to the last digit."""
    loss = valley(1.000_123, depth=1e-3)
    assert search(loss, START, useful=1.0) == pytest.approx(1.000_123, rel=1e-8)


def test_a_loss_that_is_no_number_ends_nothing() -> None:
    def loss(value: float) -> float:
        return math.nan if value > 2 else abs(math.log(value / 1.9))

    assert search(loss, START, useful=1e-3) == pytest.approx(1.9, rel=1e-6)


def test_a_common_number_is_taken_where_it_fits_and_none_where_nothing_does() -> None:
    assert best_number(valley(5.0000001, depth=1.0), START, [5.0], useful=10.0) == 5.0
    assert best_number(lambda value: 7.0 + abs(math.log(value)), START, [5.0], useful=1.0) == 1.0
