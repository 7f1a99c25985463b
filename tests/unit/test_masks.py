"""A constant that is most of a mask is a mask: each of its rows is right, or is named with what is wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from masks import causal

from harness.audit.computed import is_computed
from harness.audit.masks import wrong_flags, wrong_mask

LARGEST = float(np.finfo(np.float32).max)


def test_masks_are_read_row_by_row() -> None:
    assert wrong_mask(causal(24), []) == ""
    assert wrong_mask(causal(24, 8), [8]) == ""
    assert "no window" not in wrong_mask(causal(24, 8), [])  # a window that the model does not have
    assert "row 8 sees positions 1 to 8" in wrong_mask(causal(24, 8), [])
    assert "no window of 8" in wrong_mask(causal(24, 9), [8])
    ahead = causal(24)
    ahead[7, 0, 0, 9] = 0  # sees a position that is to come
    assert "1 of 24 rows" in wrong_mask(ahead, [8])
    assert "row 7 sees positions 0 to 9, 9 of them" in wrong_mask(ahead, [8])
    assert wrong_mask(np.zeros((24, 24), np.float32), [])  # sees everything
    assert wrong_mask(np.full((24, 24), -np.inf, np.float32), [])  # sees nothing
    assert wrong_mask(causal(24)[::-1], [])


@pytest.mark.parametrize("hides", [-1e4, -1e9, -0.7 * LARGEST, -LARGEST, -np.inf])
@pytest.mark.parametrize("window", [None, 8])
def test_a_right_mask_is_right_whatever_number_hides(hides: float, window: int | None) -> None:
    mask = causal(24, window, hides)
    assert wrong_mask(mask, [8]) == ""
    assert is_computed(mask, [])


def test_numbers_that_surely_hide_may_be_mixed() -> None:
    mask = causal(24)
    mask[3, 0, 0, 4:9] = -np.inf
    mask[5, 0, 0, 10] = -1e30
    assert wrong_mask(mask, []) == ""
    assert is_computed(mask, [])


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("hides", [-1e4, -LARGEST, -np.inf])
@pytest.mark.parametrize(
    "number", [LARGEST, 2.0, -1.0, -3.0, -20.0, -1e3, 1e-30, np.inf, np.nan], ids=lambda number: f"{number:g}"
)
@pytest.mark.parametrize("position", [10, 21], ids=["shown", "hidden"])
def test_one_number_that_neither_shows_nor_hides_is_named_with_its_row(
    position: int, number: float, hides: float, window: int | None
) -> None:
    if window:
        position = max(position, 14)
    mask = causal(24, window, hides)
    mask[20, 0, 0, position] = number
    said = wrong_mask(mask, [8])
    assert said.startswith("1 of 24 rows is not causal")
    assert f"row 20 holds {np.float32(number):g} at position {position}" in said
    assert f"as {np.float32(hides):g} does here" in said


WHOLE_ROWS: dict[str, tuple[Callable[[Any], None], str]] = {
    "a number for most of what the last rows show": (lambda m: m[18:, :15].fill(-5), "6 of 24 rows"),
    "rows that hide everything": (lambda m: m[18:].fill(-3e38), "row 18 sees no position"),
    "rows that hide nothing": (lambda m: m[18:].fill(0), "row 18 sees positions 0 to 23"),
    "garbage from row 9 on": (lambda m: m.__setitem__(slice(9, None), np.sin(np.arange(360).reshape(15, 24))),
                              "15 of 24 rows"),
    "one number wrong in every row": (lambda m: m[:, 0].fill(-3), "24 of 24 rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE_ROWS)
def test_a_mask_stays_one_however_many_of_its_rows_are_damaged(name: str) -> None:
    damage, says = WHOLE_ROWS[name]
    mask = causal(24)
    damage(mask[:, 0, 0])
    assert says in wrong_mask(mask, [])


@pytest.mark.parametrize(("hides", "right"), [(-1e9, True), (-1e4, True), (-25.0, False)])
def test_a_mask_that_hides_with_a_finite_number_is_right_only_where_softmax_makes_it_zero(
    hides: float, right: bool
) -> None:
    mask = causal(24, 8, hides)
    said = wrong_mask(mask, [8])
    assert said == "" if right else f"hides with {hides:g}" in said
    assert is_computed(mask, []) == right
    mask[3, :, :, 2] = hides
    assert wrong_mask(mask, [8])


def alibi(size: int) -> Any:
    """A bias for each position, in a table that hides what is to come as well: not a mask of zeros."""
    bias = -0.25 * np.arange(size, dtype=np.float32)[None, :] - np.arange(size, dtype=np.float32)[:, None]
    return np.where(causal(size)[:, 0, 0] == 0, bias, causal(size)[:, 0, 0])


NOT_MASKS: dict[str, Any] = {
    "zeros of one dimension": np.zeros(24, np.float32),
    "a row of zeros": np.zeros((1, 24), np.float32),
    "a few rows of zeros": np.zeros((3, 24), np.float32),
    "a single number": np.zeros((), np.float32),
    "the identity": np.eye(24, dtype=np.float32),
    "a triangle of ones": np.tril(np.ones((24, 24), np.float32)),
    "a triangle of ones above": np.triu(np.ones((24, 24), np.float32), 1),
    "a weight": np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32),
    "a sparse weight": np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    * (np.random.default_rng(1).random((24, 24)) < 0.2),
    "a bias that hides": alibi(24),
    "a bias": np.subtract.outer(np.arange(24, dtype=np.float32), np.arange(24, dtype=np.float32)),
    "a rotary table": np.cos(np.outer(np.arange(24), 10000.0 ** (-np.arange(24) / 24))).astype(np.float32),
    "few large numbers": np.diag(np.full(24, -500, np.float32)) + np.float32(0.5),
}


@pytest.mark.parametrize("name", NOT_MASKS)
def test_what_is_not_a_mask_is_not_judged_as_one(name: str) -> None:
    assert wrong_mask(NOT_MASKS[name], []) == ""
    assert wrong_mask(NOT_MASKS[name], [8]) == ""
    assert wrong_flags((NOT_MASKS[name] != 0).astype(np.float32), []) == ""


def test_rows_of_an_image_may_see_each_other_only_where_no_text_is_taken() -> None:
    prefix = np.zeros((8, 24), np.float32)
    prefix[:, 8:] = -LARGEST
    assert wrong_mask(prefix, [], prefix=True) == ""
    assert "row 0 sees positions 0 to 7" in wrong_mask(prefix, [])
    prefix[3, 9] = 0  # more than the image
    assert wrong_mask(prefix, [], prefix=True)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("shows", [True, False], ids=["true shows", "true hides"])
def test_a_mask_of_booleans_is_read_by_rows_too(shows: bool, window: int | None) -> None:
    flags = ((causal(24, window) == 0) == shows).astype(np.float32)
    assert wrong_flags(flags, [8]) == ""
    flags[20, 0, 0, 22] = 1 - flags[20, 0, 0, 22]
    said = wrong_flags(flags, [8])
    assert said.startswith("1 of 24 rows is not causal")
    assert "row 20 sees positions" in said
    assert wrong_flags(flags[:, :, :, :1], [8]) == ""
