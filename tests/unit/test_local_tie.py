"""A number on the very edge between two steps of a grid is not a fault, at one position of a tap; whatever else is, is.

The runtime's error is put at positions by hand, beside what the steps of the grid cost there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from harness.compare.local import local_errors
from harness.compare.noise import Excess
from harness.names.stages import HF, ORACLE, Hop
from harness.store.trace import TraceWriter, local, unrounded

TAP, LENGTH, WIDTH = "block.0.mlp.out", 12, 16
LAST = LENGTH - 1
REFERENCE, CANDIDATE = "fakequant[int8]", "tflite-xnnpack[int8]"
NOISE, STEP = 1e-7, 1e-2  # of each number: what float32 costs, and what a step of the grid does
LIMIT = 16.0  # any: sound positions are at 1, those with an error of a step at 1e5


def values(errors: Mapping[int, float], plain: float = 0.0) -> np.ndarray:
    """Ones, `[1, LENGTH, WIDTH]`, each off by `plain`, or by the error of its position."""
    made = np.full((1, LENGTH, WIDTH), 1 + plain)
    for position, error in errors.items():
        made[0, position] = 1 + error
    return made


def put(folder: Path, array: np.ndarray) -> None:
    with TraceWriter(folder / "a", LENGTH) as trace:
        trace.put(TAP, array)


def local_error(folder: Path, errors: Mapping[int, float], steps: Mapping[int, float], grid: bool = True) -> Excess:
    """errors: position -> of the runtime's local pass. steps: position -> what the rounding of inputs costs there."""
    put(folder / ORACLE, values({}))
    put(local(folder / HF), values({}, NOISE).astype(np.float64))
    put(folder / REFERENCE, values({}))
    put(local(folder / CANDIDATE), values(errors, NOISE))
    if grid:
        put(unrounded(folder / REFERENCE), values(steps))
    hop = Hop.between(REFERENCE, CANDIDATE)
    return local_errors(folder, [hop], ["a"], [TAP])["a", hop.name, TAP]


EVERYWHERE = dict.fromkeys(range(LENGTH), STEP)


def test_a_tie_at_one_position_is_left_out(tmp_path: Path) -> None:
    found = local_error(tmp_path, {4: STEP / 2}, EVERYWHERE)
    assert found.whole == pytest.approx(1, rel=1e-3)
    assert found.worst == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("errors", "steps", "grid"),
    [
        pytest.param({LAST: STEP / 2}, EVERYWHERE, True, id="the last position, which decode alone may have computed"),
        pytest.param({4: STEP / 2, 7: STEP / 2}, EVERYWHERE, True, id="two positions"),
        pytest.param({4: 2 * STEP}, EVERYWHERE, True, id="more than the steps cost"),
        pytest.param({4: STEP / 2}, {7: STEP}, True, id="steps that cost something elsewhere"),
        pytest.param({4: STEP / 2}, EVERYWHERE, False, id="a file without a grid"),
        pytest.param({4: math.nan}, EVERYWHERE, True, id="not a number"),
        pytest.param({4: math.inf}, EVERYWHERE, True, id="infinite"),
        pytest.param({4: math.nan}, {4: math.nan}, True, id="not a number without the steps either"),
        pytest.param({4: math.nan, 7: STEP / 2}, EVERYWHERE, True, id="not a number beside a tie"),
    ],
)
def test_what_is_not_a_tie_counts(
    errors: Mapping[int, float], steps: Mapping[int, float], grid: bool, tmp_path: Path
) -> None:
    assert not local_error(tmp_path, errors, steps, grid).worst <= LIMIT


def test_an_input_of_one_position_has_no_tie(tmp_path: Path) -> None:
    """It is the last one too."""
    hop = Hop.between(REFERENCE, CANDIDATE)
    for stage, error in ((tmp_path / ORACLE, 0), (local(tmp_path / HF), NOISE), (tmp_path / REFERENCE, 0)):
        one(stage, error)
    one(local(tmp_path / CANDIDATE), STEP / 2)
    one(unrounded(tmp_path / REFERENCE), STEP)
    assert local_errors(tmp_path, [hop], ["a"], [TAP])["a", hop.name, TAP].worst > LIMIT


def one(folder: Path, error: float) -> None:
    with TraceWriter(folder / "a", 1) as trace:
        trace.put(TAP, np.full((1, 1, WIDTH), 1 + error))
