"""How small a mistake in the rotary embedding is still seen, near the start and far from it, on trained weights.

`python -m pytest tests/faults/test_sees_rope_faults.py -m "sweep or not sweep" -s -q | grep fault:` shows the figures
of docs/tolerances.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.bench.workbench import FIRST, TORCH_STAGES, Bench

pytestmark = [pytest.mark.slow, pytest.mark.further]
ROTATED = tuple(f"block.{block}.attn.{point}" for block in (0, 1) for point in ("q_rope", "k_rope"))
LENGTHS = (32, 256, pytest.param(1024, marks=pytest.mark.sweep))
Change = Callable[[Any], Any]


@cache
def of_length(length: int) -> Bench:
    variant = "default" if length <= 256 else f"kv-cache={length}"
    return Bench("smollm2", inputs=(("at", length, 3),), variant=variant, stages=TORCH_STAGES, real=True, layers=2)


def rope(given: Callable[[torch.Tensor, float], tuple[torch.Tensor, float]]) -> Change:
    """given: makes other positions and another base of those that the rope is built of."""

    def change(network: Any) -> None:
        build = network.config.build_rope

        def built(positions: torch.Tensor, dims: int, base: float) -> Any:
            other = given(positions, base)
            return build(other[0], dims, other[1])

        network.config.build_rope = built

    return change


def theta(by: float) -> Change:
    return rope(lambda positions, base: (positions, base * (1 + by)))


def every_frequency(by: float) -> Change:
    return rope(lambda positions, base: (positions * (1 + by), base))


def later(first: int) -> Change:
    return rope(lambda positions, base: (positions + (positions >= first).int(), base))


def frequency(number: int, by: float) -> Change:
    def change(network: Any) -> None:
        def built(positions: torch.Tensor, dims: int, base: float) -> Any:
            scale = float(base) ** ((2.0 / dims) * torch.arange(dims // 2, dtype=torch.float32))
            scale[number] /= 1 + by
            angles = positions.clone()[None, :, None] / scale[None, None]
            return torch.cos(angles), torch.sin(angles)

        network.config.build_rope = built

    return change


SEEN = {
    "theta off by 1e-5": theta(1e-5),
    "theta off by 1e-4": theta(1e-4),
    "theta off by 1e-3": theta(1e-3),
    "frequency 1 off by 1e-5": frequency(1, 1e-5),
    "frequency 8 off by 1e-4": frequency(8, 1e-4),
    "frequency 16 off by 1e-3": frequency(16, 1e-3),
    "every frequency off by 1e-6": every_frequency(1e-6),
    "one position later": later(0),
}
ROUNDING = {"nothing": theta(0.0), "theta off by 1e-6": theta(1e-6), "frequency 16 off by 1e-5": frequency(16, 1e-5)}
# Near the start they are within what rounding costs, and far from it they are seen.
FAR = {
    "frequency 1 off by 1e-6": frequency(1, 1e-6),
    "frequency 8 off by 1e-5": frequency(8, 1e-5),
    "frequency 16 off by 1e-4": frequency(16, 1e-4),
    "every frequency off by 3e-7": every_frequency(3e-7),
}


def first_failing(length: int, name: str, change: Change, folder: Path) -> str | None:
    model = of_length(length)
    model.sound  # noqa: B018 - traced before the model is broken
    model.break_reauthored(folder, change)
    outcome = model.judge(folder)
    rows = outcome.frame[(outcome.frame["hop"] == FIRST) & outcome.frame["tap"].isin(ROTATED)]
    shown = f"{rows['excess'].max():.3g}, {rows['position_excess'].max():.3g} at a position"
    print(f"fault: {length} positions, {name}: {shown}")
    return outcome.fault and outcome.fault.tap


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", SEEN)
def test_what_is_more_than_rounding_is_seen_at_the_rotation(name: str, length: int, tmp_path: Path) -> None:
    assert first_failing(length, name, SEEN[name], tmp_path) in ROTATED


@pytest.mark.parametrize("length", LENGTHS[1:])
@pytest.mark.parametrize("name", FAR)
def test_far_from_the_start_less_is_seen(name: str, length: int, tmp_path: Path) -> None:
    assert first_failing(length, name, FAR[name], tmp_path) in ROTATED


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ROUNDING)
def test_what_rounding_makes_too_is_no_fault(name: str, length: int, tmp_path: Path) -> None:
    assert first_failing(length, name, ROUNDING[name], tmp_path) is None
