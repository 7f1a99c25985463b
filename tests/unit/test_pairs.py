"""How tensors of two files are matched and judged, on graphs made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.flatbuffer.reader import Operator, Subgraph, Tensor
from harness.operators.definitions import Call, define
from harness.pairs.judging import difference, first_fault, output
from harness.pairs.matching import NAME, STRUCTURE, VALUE, match


def chain(names: list[str], kinds: list[str], shape: tuple[int, ...] = (2, 8)) -> Subgraph:
    """An input, and operators one after the other."""
    tensors = [Tensor(index, name, shape, "FLOAT32", 0) for index, name in enumerate(names)]
    operators = [Operator(index, kind, (index,), (index + 1,)) for index, kind in enumerate(kinds)]
    return Subgraph(0, "", tensors, operators)


def test_names_come_first_then_structure_then_values() -> None:
    draw = np.random.default_rng(0)
    values = {index: draw.standard_normal((2, 8)).astype(np.float32) for index in range(4)}
    a = chain(["x", "one", "two", "three"], ["EXP", "ABS", "NEG"])
    b = chain(["x", "one", "other", "more"], ["EXP", "ABS", "RELU"])
    found = match(a, b, {0: 0}, values, values)
    assert found.pairs == {0: 0, 1: 1, 2: 2, 3: 3}
    assert found.how == {0: NAME, 1: NAME, 2: STRUCTURE, 3: VALUE}


def test_a_name_that_another_operator_writes_is_no_match() -> None:
    values = {0: np.ones((2, 8), np.float32), 1: np.arange(16, dtype=np.float32).reshape(2, 8)}
    other = {0: values[0], 1: values[1] + 1}
    assert match(chain(["x", "y;1"], ["EXP"]), chain(["x", "y;1"], ["ABS"]), {0: 0}, values, other).pairs == {0: 0}
    assert match(chain(["x", "y;1"], ["EXP"]), chain(["x", "y;1"], ["EXP"]), {0: 0}, values, other).pairs == {
        0: 0,
        1: 1,
    }


def test_values_match_nothing_that_is_not_the_same() -> None:
    a, b = chain(["x", "one"], ["EXP"]), chain(["x", "other"], ["ABS"])
    values = {0: np.ones((2, 8), np.float32), 1: np.arange(16, dtype=np.float32).reshape(2, 8)}
    other = {0: values[0], 1: values[1] * 1.01}
    assert match(a, b, {0: 0}, values, other).pairs == {0: 0}


def test_an_error_is_counted_in_what_float32_costs() -> None:
    exact = np.random.default_rng(1).standard_normal((4, 32))
    a = (exact * (1 + 1e-7)).astype(np.float32)
    near = difference(a, (exact * (1 - 1e-7)).astype(np.float32), exact)
    far = difference(a, (exact * (1 + 1e-5)).astype(np.float32), exact)
    assert near.passed
    assert not far.passed
    assert far.excess > 20
    assert difference(a, a, None) == difference(a, a, exact)


def test_what_is_not_finite_in_one_file_alone_is_a_difference_and_what_is_in_both_is_not() -> None:
    a, b = (np.ones((2, 8), np.float32) for _ in range(2))
    b[1, 3] = math.nan
    assert difference(a, b, None).problem == "1 number is not finite in one file alone"
    a[1, 3] = math.nan
    assert difference(a, b, None).passed
    assert difference(a, b[:1], None).problem == "its shape is [2, 8] in A and [1, 8] in B"
    whole = difference(np.arange(4), np.array([0, 1, 2, 5]), None)
    assert (whole.passed, whole.problem) == (False, "1 of 4 numbers differs")


@pytest.mark.parametrize("priced", [False, True])
def test_what_holds_no_number_was_not_compared_and_whole_numbers_differ_past_any_limit(priced: bool) -> None:
    nothing = output("y", "tflite-builtin", np.ones((0, 4), np.float32), np.ones((0, 4), np.float32), None, priced)
    assert (nothing.verdict, nothing.problem[:24]) == ("fail", "there is no number in it")
    shorter = output("y", "tflite-builtin", np.arange(4), np.arange(3), None, priced)
    assert shorter.verdict == "fail"
    whole = difference(np.arange(4), np.array([0, 1, 2, 5]), None)
    assert whole.excess == math.inf


def test_a_price_is_no_fault_until_nothing_is_left_of_the_signal() -> None:
    a = np.random.default_rng(2).standard_normal((2, 64)).astype(np.float32)
    assert output("y", "tflite-builtin", a, a * 1.01, None, priced=True).verdict == "price"
    assert output("y", "tflite-builtin", a, a * 1.01, None, priced=False).verdict == "fail"
    assert output("y", "tflite-builtin", a, -a, None, priced=True).verdict == "fail"
    assert output("logits", "tflite-builtin", a, a, None, priced=True).kl_mean == pytest.approx(0, abs=1e-12)


def test_the_first_fault_is_where_what_goes_in_agrees() -> None:
    a = chain(["x", "one", "two", "three"], ["EXP", "ABS", "NEG"])
    values = {index: np.full((2, 8), float(index), np.float32) for index in range(4)}
    wrong = {**values, 2: values[2] + 1, 3: values[3] + 1}
    pairs = {index: index for index in range(4)}
    differences = {index: difference(values[index], wrong[index], None) for index in range(4)}
    fault = first_fault("s", (a, a), pairs, differences, (values, wrong))
    assert fault is not None
    assert (fault.b.kind, fault.b.tensor, fault.values) == ("ABS", "two", [2.0, 3.0])


def test_convolutions_and_pools_are_what_they_are_defined_as() -> None:
    draw = np.random.default_rng(3)
    x, w, bias = draw.standard_normal((1, 5, 6, 4)), draw.standard_normal((3, 3, 3, 4)), draw.standard_normal(3)
    options = {"padding": 0, "strideH": 2, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 2}
    made, bound = define(Call("CONV_2D", [x, w, bias], options, (1, 3, 6, 3)))
    padded = np.pad(x, [(0, 0), (1, 1), (2, 2), (0, 0)])
    for y, column in ((0, 0), (1, 3), (2, 5)):
        patch = padded[0, 2 * y : 2 * y + 3, column : column + 5 : 2]
        np.testing.assert_allclose(made[0, y, column], np.einsum("ijc,oijc->o", patch, w) + bias, rtol=1e-12)
    assert (np.asarray(bound) > 0).all()
    deep = draw.standard_normal((1, 3, 3, 4))
    made, _ = define(
        Call("DEPTHWISE_CONV_2D", [x, deep, None], {"padding": 1, "strideH": 1, "strideW": 1}, (1, 3, 4, 4))
    )
    np.testing.assert_allclose(made[0, 1, 2], np.einsum("ijc,ijc->c", x[0, 1:4, 2:5], deep[0]), rtol=1e-12)
    pool = {"padding": 0, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    made, _ = define(Call("AVERAGE_POOL_2D", [x], pool, (1, 3, 3, 4)))
    np.testing.assert_allclose(
        made[0, 2, 1], x[0, 4, 2:4].mean(0), rtol=1e-12
    )  # the last row is padded, and not counted
    made, _ = define(Call("MAX_POOL_2D", [x], pool, (1, 3, 3, 4)))
    np.testing.assert_allclose(made[0, 2, 1], x[0, 4, 2:4].max(0))
