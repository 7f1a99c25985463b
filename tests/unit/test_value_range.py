"""How large the numbers of a tap get: exact, whatever they are, and gathered without changing any other figure."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from harness.compare import metrics
from harness.compare.value_range import ValueRange, joined

Array = np.ndarray[Any, Any]
# What sits at the edges of float16, of float64, and of what a float knows.
ODD = (0.0, -0.0, 65504.0, -65504.0, 65505.0, -1.15e5, 2.0**-14, -(2.0**-14), 6e-5, -1e-300, 5e-324, np.inf, -np.inf)


def plain(values: Array) -> ValueRange:
    numbers = values[~np.isnan(values)]
    size = np.abs(numbers)
    ends = (float(numbers.min()), float(numbers.max())) if numbers.size else (math.nan, math.nan)
    return ValueRange(*ends, int((size > 65504).sum()), int(((size < 2.0**-14) & (size > 0)).sum()), values.size)


def both_equal(one: ValueRange, other: ValueRange) -> bool:
    return all(
        a == b or (a != a and b != b) for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("row", [1, 7, 192, 600, 70_000])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.5, 1.0])
def test_the_range_is_that_of_plain_numpy(dtype, row, share):
    rng = np.random.default_rng(row)
    values = rng.standard_normal((1, 9, row)) * np.exp(rng.uniform(-20, 12, (1, 9, row)))
    odd = rng.random(values.shape) < share
    values[odd] = rng.choice([*ODD, np.nan], odd.sum())
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    for reference in (values, values[:, ::2]):
        candidate = np.zeros(reference.shape, np.float32)
        stats, found = metrics.ranged_stats(reference, candidate)
        assert both_equal(found, plain(reference.astype(np.float64)))
        for name, array in dataclasses.asdict(metrics.position_stats(reference, candidate)).items():
            np.testing.assert_allclose(getattr(stats, name), array, rtol=1e-13, err_msg=name)


def test_many_threads_find_the_one_number_that_is_beyond():
    values = np.random.default_rng(0).standard_normal((1, 64, 40_000))
    values[0, 37, 39_999], values[0, 2, 5] = -7.1e4, 3e-5
    found = metrics.ranged_stats(values, values.astype(np.float32))[1]
    assert (found.smallest, found.beyond, found.magnitude) == (-7.1e4, 1, 7.1e4)
    assert both_equal(found, plain(values))


def test_parts_join_to_the_whole_and_nothing_but_nan_has_no_ends():
    values = np.random.default_rng(1).standard_normal((1, 8, 30))
    values[0, :4] = np.nan
    parts = [metrics.ranged_stats(values[:, a:b], values[:, a:b])[1] for a, b in ((0, 4), (4, 8))]
    assert math.isnan(parts[0].smallest)
    assert math.isnan(parts[0].magnitude)
    assert both_equal(joined(parts), plain(values))
    assert both_equal(joined(parts[:1]), plain(values[:, :4]))
