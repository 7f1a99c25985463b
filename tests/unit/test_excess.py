"""Excess: an error in units of what float32 costs there."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.metrics import position_stats
from harness.compare.noise import UNIT_ROUNDOFF, NoiseFloor, excess, with_typical


def floor_of(relative: list[float], norm: float = 1.0) -> NoiseFloor:
    return NoiseFloor(np.array(relative), np.full(len(relative), norm))


def squares(values: list[float]) -> np.ndarray:
    return np.array(values) ** 2


def test_an_error_as_large_as_the_noise_is_an_excess_of_one():
    noise = floor_of([1e-6, 2e-6, 3e-6])
    found = excess(squares([1e-6, 2e-6, 3e-6]), noise)
    assert found.whole == pytest.approx(1.0)
    assert found.worst == pytest.approx(1.0)


def test_no_error_is_no_excess_even_where_float32_is_exact():
    assert excess(squares([0.0, 0.0]), floor_of([0.0, 0.0])).whole == 0.0


def test_where_float32_is_exact_one_rounding_is_the_unit():
    found = excess(squares([3 * UNIT_ROUNDOFF]), floor_of([0.0]))
    assert found.whole == pytest.approx(3.0)


def test_an_error_where_the_oracle_is_zero_is_infinite_and_not_lost():
    noise = NoiseFloor(np.array([0.0, 1e-6]), np.array([0.0, 1.0]))
    found = excess(squares([1e-9, 1e-6]), noise)
    assert math.isinf(found.worst)
    assert math.isinf(found.whole)
    assert found.worst_position == 0


@pytest.mark.parametrize("where", ["error", "noise"])
def test_nan_never_becomes_a_number(where):
    noise = floor_of([1e-6, math.nan if where == "noise" else 1e-6])
    found = excess(squares([1e-6, math.nan if where == "error" else 1e-6]), noise)
    assert math.isnan(found.whole)
    assert math.isnan(found.worst)
    assert found.worst_position == 1


def test_a_position_where_float32_was_lucky_is_measured_by_what_is_typical_of_the_tap():
    lucky, usual = with_typical([floor_of([1e-9]), floor_of([1e-6] * 5)])
    assert excess(squares([2e-6]), lucky).whole == pytest.approx(2.0)
    assert usual.typical == pytest.approx(1e-6)


def test_one_large_channel_of_one_position_does_not_outweigh_the_others():
    # An attention sink: norm 1e4 at the first position, 1 elsewhere, and a fault everywhere but there.
    norms = np.array([1e4] + [1.0] * 31)
    noise = NoiseFloor(np.full(32, 1e-6), norms)
    error = np.array([1e-6 * 1e4] + [1e-4] * 31)
    assert excess(error**2, noise).whole > 90
    plain = math.sqrt((error**2).sum()) / math.sqrt(((1e-6 * norms) ** 2).sum())
    assert plain < 1.01  # what a norm over the whole tap would have said


def test_a_fault_at_one_position_of_many_shows_at_that_position():
    error = np.full(1000, 1e-6)
    error[617] = 5e-5
    found = excess(error**2, floor_of([1e-6] * 1000))
    assert found.whole < 1.1
    assert found.worst == pytest.approx(50)
    assert found.worst_position == 617


def test_only_the_positions_that_were_compared_count():
    noise = floor_of([1e-6, 1e-3, 1e-6])
    found = excess(squares([2e-6, 2e-6]), noise, np.array([0, 2]))
    assert found.whole == pytest.approx(2.0, rel=1e-6)


@given(st.floats(1e-7, 1e-2), st.floats(1e-30, 1e30), st.integers(1, 40))
def test_excess_does_not_depend_on_the_scale_of_the_tensor(relative, scale, length):
    rng = np.random.default_rng(length)
    oracle = rng.standard_normal((1, length, 16)) * scale
    hf = oracle * (1 + 1e-6 * rng.standard_normal(oracle.shape))
    candidate = oracle * (1 + relative * rng.standard_normal(oracle.shape))
    noise = NoiseFloor.of(position_stats(oracle, hf))
    small = NoiseFloor.of(position_stats(oracle / scale, hf / scale))
    at_scale = excess(position_stats(oracle, candidate).squared_error, noise).whole
    at_one = excess(position_stats(oracle / scale, candidate / scale).squared_error, small).whole
    assert at_scale == pytest.approx(at_one, rel=1e-6)
