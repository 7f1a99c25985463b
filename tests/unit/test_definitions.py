"""What operators compute, single changes to them, and tensors that are found again by their values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from harness.flatbuffer.constants import unpacked
from harness.operators.definitions import Call, define, is_defined
from harness.operators.matching import RecordedTaps
from harness.operators.repairs import repairs, rewired

RANDOM = np.random.default_rng(0)

# All that the conversions of our models consist of, composites taken apart.
KINDS = (
    "ADD BATCH_MATMUL BROADCAST_TO CAST CONCATENATION COS DYNAMIC_UPDATE_SLICE EMBEDDING_LOOKUP FULLY_CONNECTED "
    "GATHER_ND GELU GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND LOGISTIC MEAN MINIMUM MUL PACK REDUCE_ALL "
    "RESHAPE RSQRT SELECT SELECT_V2 SIN SLICE SOFTMAX SQUARED_DIFFERENCE SUB TANH TRANSPOSE"
)


def call(kind: str, *inputs: Any, shape: tuple[int, ...], **options: Any) -> Call:
    return Call(kind, [None if value is None else np.asarray(value) for value in inputs], options, shape)


def test_every_kind_of_operator_in_our_files_is_defined() -> None:
    assert [kind for kind in KINDS.split() if not is_defined(kind)] == []
    with pytest.raises(NotImplementedError, match="WHERE has no definition"):
        define(call("WHERE", [1.0], shape=(1,)))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (call("SUB", [3.0, 1.0], [1.0, 2.0], shape=(2,), fusedActivationFunction=1), [2.0, 0.0]),
        (call("SOFTMAX", [[0.0, math.log(3)]], shape=(1, 2), beta=1.0), [[0.25, 0.75]]),
        (call("GELU", [1.0], shape=(1,), approximate=False), [0.5 * (1 + math.erf(1 / math.sqrt(2)))]),
        (call("MEAN", [[1.0, 3.0]], [1], shape=(1,)), [2.0]),
        (call("FULLY_CONNECTED", [[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], [1.0, 0.0], shape=(1, 2)), [[12.0, 17.0]]),
        (call("BATCH_MATMUL", [[[1.0, 2.0]]], [[[3.0, 4.0]]], shape=(1, 1, 1), adjY=True), [[[11.0]]]),
        (call("SLICE", np.arange(6.0).reshape(2, 3), [0, 1], [-1, 2], shape=(2, 2)), [[1.0, 2.0], [4.0, 5.0]]),
        (call("DYNAMIC_UPDATE_SLICE", np.zeros(4), [7.0, 8.0], [3], shape=(4,)), [0.0, 0.0, 7.0, 8.0]),
        (call("GATHER_ND", [[1.0, 2.0], [3.0, 4.0]], [[1], [0]], shape=(2, 2)), [[3.0, 4.0], [1.0, 2.0]]),
        (call("ADD", [-3e38], [-3e38], shape=(1,)), [-math.inf]),
    ],
    ids=lambda value: value.kind if isinstance(value, Call) else "",
)
def test_an_operator_gives_what_its_definition_says(made: Call, expected: Any) -> None:
    values, bound = define(made)
    assert values.shape == made.shape
    assert np.allclose(values, expected, rtol=1e-12)
    assert np.all(np.asarray(bound) <= 1e-5 * np.maximum(1, np.abs(values)))


def test_a_narrow_weight_allows_for_rounded_activations() -> None:
    given, weight = RANDOM.standard_normal((3, 64)), RANDOM.standard_normal((8, 64))
    wide = call("FULLY_CONNECTED", given, weight, shape=(3, 8))
    narrow = Call(wide.kind, wide.inputs, wide.options, wide.shape, narrow=True)
    step = np.abs(given).max(1, keepdims=True) / 127
    hybrid = np.round(given / step) * step @ weight.T
    values, bound = define(narrow)
    assert np.all(np.abs(hybrid - values) <= bound)
    assert np.any(np.abs(hybrid - values) > define(wide)[1])


def test_four_bits_are_read_lowest_first_and_with_their_sign() -> None:
    assert unpacked(np.array([0x1F, 0x87], np.uint8), 4, 3).tolist() == [-1, 1, 7]


def changes(made: Call, wanted: Any) -> list[str]:
    return [repair.change for repair in repairs(made) if np.array_equal(repair.values, wanted)]


def test_a_reshape_that_should_have_been_a_transpose_is_among_the_repairs() -> None:
    values = RANDOM.standard_normal((1, 4, 1, 4))
    found = changes(call("RESHAPE", values, [1, 1, 4, 4], shape=(1, 1, 4, 4)), values.transpose(0, 2, 3, 1))
    assert found == ["it should transpose axes to (0, 2, 3, 1)"]


def test_other_repairs_say_what_would_have_to_be() -> None:
    one, other = RANDOM.standard_normal((2, 2, 3))
    assert changes(call("SUB", one, other, shape=(2, 3)), other - one) == ["its inputs should come in the order 1, 0"]
    assert changes(call("MUL", one, other, shape=(2, 3)), one + other) == ["it should be ADD"]
    cut = call("SLICE", one, [0, 1], [2, 1], shape=(2, 1))
    assert changes(cut, one[:, 2:]) == ["it should begin at (0, 2), not (0, 1)"]
    named = {"tensor 7": other, "tensor 8": np.zeros((5,))}
    (repair,) = rewired(call("RSQRT", one**2, shape=(2, 3)), named)
    assert repair.change == "input 0 should be tensor 7"


def test_a_tensor_is_found_whatever_its_shape_and_the_order_of_its_axes() -> None:
    values = RANDOM.standard_normal((1, 4, 3, 5))
    masked = np.where(values > 0, values, -np.inf)
    recorded = RecordedTaps.of([("a", values.astype(np.float32)), ("b", 2 * values), ("masked", masked)])
    assert recorded.find(values.transpose(0, 2, 1, 3).reshape(12, 5), 1e-6) == "a"
    assert recorded.find(np.where(np.isinf(masked), -3.4e38, masked), 1e-6) == "masked"
    assert recorded.find(values.reshape(5, 12).T, 1e-6) is None, "other elements stand beside each other"
    assert recorded.find(values * 1.001, 1e-6) is None
    changed = values.copy()
    changed[0, 1, 2, 3] += 0.1
    name, share, count = recorded.nearest(changed) or ("", 0.0, 0)
    assert (name, count) == ("a", 60)
    assert share == pytest.approx(0.1 / np.abs(changed).max(), rel=1e-3)
