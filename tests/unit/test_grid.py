"""How near a quantised weight is to the numbers it stands for: rounding is nearest, and what a fault makes is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from harness.audit.grid import GridFit, fit
from harness.audit.recipe import audit_layer
from harness.flatbuffer.quantised import Grid, Held
from harness.flatbuffer.reader import Tensor

ROWS, WIDTH, BLOCK = 48, 64, 32
RNG = np.random.default_rng(3)
WEIGHT = (RNG.standard_normal((ROWS, WIDTH)) * np.exp(RNG.standard_normal((ROWS, 1)))).astype(np.float32)
GRIDS = {
    "int8 channelwise": Grid("INT8", axis=0),
    "int4 channelwise": Grid("INT4", axis=0),
    "int8 tensorwise": Grid("INT8"),
    "int4 blockwise 32": Grid("INT4", block=BLOCK),
    "int2 channelwise": Grid("INT2", axis=0),
}


def rounded(grid: Grid, weight: np.ndarray = WEIGHT) -> Held:
    """As quantisers do it: the scale from the range, and each number to the nearest step, in float32."""
    high = (1 << (grid.bits - 1)) - 1
    absolute = np.abs(weight)
    if grid.block:
        reach = absolute.reshape(weight.shape[0], -1, grid.block).max(-1)
    elif grid.axis is None:
        reach = absolute.max(keepdims=True)
    else:
        reach = absolute.max(axis=1 - grid.axis, keepdims=True)
    scale = (np.where(reach > 0, reach, 1) / np.float32(high)).astype(np.float32)
    spread = np.repeat(scale, grid.block, axis=1) if grid.block else scale
    whole = np.clip(np.rint(weight / spread), -high - 1, high).astype(np.int8)
    return Held(grid, whole, scale.astype(np.float64), np.zeros(scale.shape))


def changed(held: Held, **parts: np.ndarray) -> Held:
    return dataclasses.replace(held, **parts)


def scaled(held: Held, factor: float, at: int = 5) -> Held:
    scale = held.scale.copy()
    scale[at, 0] *= factor
    return changed(held, scale=scale)


@pytest.mark.parametrize("name", GRIDS)
def test_rounding_to_the_nearest_step_is_as_near_as_the_grid_allows(name: str) -> None:
    found = fit(rounded(GRIDS[name]), WEIGHT)
    assert found.is_nearest
    assert found.error == pytest.approx(found.nearest, rel=1e-6)
    assert found.best <= found.nearest
    assert (found.beyond, found.spans_off, found.scales_wrong, found.off_zero) == (0, 0, 0, False)


def nibbles_swapped(held: Held) -> Held:
    pairs = held.whole.reshape(-1, 2)[:, ::-1]
    return changed(held, whole=pairs.reshape(held.whole.shape))


def two_scales_swapped(held: Held) -> Held:
    scale = held.scale.copy()
    scale[[2, 9]] = scale[[9, 2]]
    return changed(held, scale=scale)


def zero_point_off(held: Held) -> Held:
    zero = held.zero.copy()
    zero[7, 0] = 1
    return changed(held, zero=zero)


def block_misread(held: Held) -> Held:
    """Scales of 32 are taken for those of 16, row after row."""
    scale = np.resize(held.scale, (ROWS, WIDTH // 16))
    return Held(Grid(held.grid.dtype, block=16), held.whole, scale, np.zeros(scale.shape))


def shifted(held: Held) -> Held:
    """As GPTQ does: some numbers are moved by a step, to make good for others."""
    whole = held.whole.copy()
    whole[::3, ::5] = np.clip(whole[::3, ::5] + 1, *held.ends)
    return changed(held, whole=whole)


WRONG: dict[str, tuple[str, Callable[[Held], Held]]] = {
    "one scale of 48 times 1.01": ("int8 channelwise", lambda held: scaled(held, 1.01)),
    "one scale times 0.99": ("int8 channelwise", lambda held: scaled(held, 0.99)),
    "two scales swapped": ("int8 channelwise", two_scales_swapped),
    "two rows of block scales swapped": ("int4 blockwise 32", two_scales_swapped),
    "a zero point off by one": ("int8 channelwise", zero_point_off),
    "a zero point off by one in 4 bits": ("int4 channelwise", zero_point_off),
    "half of a scale": ("int8 channelwise", lambda held: scaled(held, 0.5)),
    "nibbles the other way round": ("int4 channelwise", nibbles_swapped),
    "nibbles the other way round in blocks": ("int4 blockwise 32", nibbles_swapped),
    "block size misread": ("int4 blockwise 32", block_misread),
    "numbers shifted on purpose": ("int4 channelwise", shifted),
    "a number one step off": (
        "int4 blockwise 32",
        lambda held: changed(held, whole=held.whole + (np.arange(ROWS * WIDTH) == 77).reshape(ROWS, WIDTH)),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_the_nearest_is_told(what: str) -> None:
    name, change = WRONG[what]
    found = fit(change(rounded(GRIDS[name])), WEIGHT)
    assert not found.is_nearest
    assert found.beyond > 0
    assert found.error > found.nearest


@pytest.mark.parametrize("name", ["int8 channelwise", "int4 channelwise", "int4 blockwise 32"])
@pytest.mark.parametrize("factor", [1.01, 0.99, 1.3, 2.0])
def test_a_scale_that_is_not_of_its_range_is_told_though_its_numbers_be_nearest(name: str, factor: float) -> None:
    """In 4 bits a scale that is off by a hundredth moves hardly any number to another step."""
    wrong = scaled(rounded(GRIDS[name]), factor)
    near = changed(wrong, whole=np.rint(wrong.nearest(WEIGHT.astype(np.float64)) / wrong.spread_scale).astype(np.int8))
    found = fit(near, WEIGHT)
    assert found.is_nearest
    assert found.spans_off == 1


def test_scales_of_blocks_may_be_kept_in_8_bits() -> None:
    held = rounded(GRIDS["int4 blockwise 32"])
    bits = held.scale.astype(np.float32).view(np.uint32)
    kept = ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)
    whole = np.clip(np.rint(WEIGHT / np.repeat(kept, BLOCK, axis=1)), -8, 7).astype(np.int8)
    found = fit(Held(held.grid, whole, kept, held.zero), WEIGHT)
    assert (found.spans_off, found.is_nearest) == (0, True)


def test_a_wrong_channel_axis_of_a_square_weight_is_told() -> None:
    square = WEIGHT[:, :ROWS]
    held = rounded(GRIDS["int8 channelwise"], square)
    turned = Held(Grid("INT8", axis=1), held.whole, held.scale.T.copy(), held.zero.T.copy())
    assert fit(held, square).is_nearest
    found = fit(turned, square)
    assert not found.is_nearest
    assert found.cosine < 1


def test_weights_of_another_layer_are_not_these() -> None:
    found = fit(rounded(GRIDS["int8 channelwise"]), RNG.standard_normal(WEIGHT.shape).astype(np.float32))
    assert abs(found.cosine) < 0.2
    assert not found.is_nearest


def test_a_saturated_scale_is_told_by_the_numbers_at_the_ends() -> None:
    wrong = scaled(rounded(GRIDS["int8 channelwise"]), 0.25)
    cut = np.clip(np.rint(WEIGHT / wrong.scale), -128, 127).astype(np.int8)
    found = fit(changed(wrong, whole=cut), WEIGHT)
    assert found.is_nearest, "no other number of this grid is nearer"
    assert found.spans_off == 1
    assert found.saturated > fit(rounded(GRIDS["int8 channelwise"]), WEIGHT).saturated
    assert found.best < found.nearest


def test_a_scale_so_wide_that_steps_are_left_unused_is_told() -> None:
    wide = scaled(rounded(GRIDS["int8 channelwise"]), 4)
    found = fit(changed(wide, whole=np.rint(WEIGHT / wide.scale).astype(np.int8)), WEIGHT)
    assert (found.wide, found.channels) == (1, ROWS)


@pytest.mark.parametrize("scale", [np.nan, np.inf, 0.0, -1.0])
def test_a_scale_that_is_none_is_counted(scale: float) -> None:
    held = rounded(GRIDS["int8 channelwise"])
    scales = held.scale.copy()
    scales[4, 0] = scale
    found = fit(changed(held, scale=scales), WEIGHT)
    assert found.scales_wrong == 1
    assert np.isfinite(found.nearest), "what the grid allows is told of the other channels"


@pytest.mark.parametrize("name", GRIDS)
def test_a_channel_of_zeros_is_exact_and_no_fault(name: str) -> None:
    weight = WEIGHT.copy()
    weight[6] = 0
    found = fit(rounded(GRIDS[name], weight), weight)
    assert (found.is_nearest, found.wide, found.scales_wrong, found.spans_off) == (True, 0, 0, 0)
    assert np.isfinite(found.error)


def test_float16_is_nearest_where_it_is_a_cast_and_has_no_scales() -> None:
    cast = Held(Grid("FLOAT16"), WEIGHT.astype(np.float16), np.zeros(0), np.zeros(0))
    found = fit(cast, WEIGHT)
    assert found.is_nearest
    assert found.error < 2.0**-11
    assert (found.channels, found.spans_off) == (0, 0)
    off = changed(cast, whole=(WEIGHT * np.float32(1.01)).astype(np.float16))
    assert not fit(off, WEIGHT).is_nearest


def test_more_rows_than_are_taken_at_a_time_come_to_the_same() -> None:
    weight = RNG.standard_normal((5000, 8)).astype(np.float32)
    held = rounded(Grid("INT8", axis=0), weight)
    found = fit(held, weight)
    direct = float(np.linalg.norm(held.values - weight) / np.linalg.norm(weight))
    assert isinstance(found, GridFit)
    assert found.error == pytest.approx(direct, rel=1e-5)
    assert found.beyond == 0


TENSOR = Tensor(7, "model/block_3/w1", WEIGHT.shape, "INT8", 3)


def given(held: Held) -> list[tuple[str, str]]:
    """What is said of a weight in a file whose recipe nobody knows: (code, severity)."""
    told, _ = audit_layer(TENSOR, "block.3.mlp.up", held, WEIGHT, "file")
    return [(finding.code, finding.severity) for finding in told if finding.code == "recipe-weight-wrong"]


def test_numbers_that_a_method_moves_on_purpose_are_a_warning_in_a_file_of_unknown_recipe() -> None:
    """As GPTQ does: some of them to the step beside the nearest one."""
    right = rounded(GRIDS["int8 channelwise"])
    moved = right.whole + (RNG.random(right.whole.shape) < 0.1) * RNG.choice([-1, 1], right.whole.shape)
    assert given(right) == []
    assert given(changed(right, whole=np.clip(moved, -127, 127).astype(np.int8))) == [
        ("recipe-weight-wrong", "warning")
    ]


def test_scales_of_two_rows_that_are_swapped_are_an_error_in_a_file_of_unknown_recipe() -> None:
    right = rounded(GRIDS["int8 channelwise"])
    order = np.argsort(right.scale[:, 0])
    scale = right.scale.copy()
    scale[[order[10], order[30]]] = scale[[order[30], order[10]]]
    assert given(changed(right, scale=scale)) == [("recipe-weight-wrong", "error")]


LONG = (RNG.standard_normal((64, 1024)) * np.exp(0.3 * RNG.standard_normal((64, 1)))).astype(np.float32)


def of_long_rows(held: Held) -> list[tuple[str, str]]:
    told, _ = audit_layer(TENSOR, "block.3.mlp.up", held, LONG, "file")
    return [(finding.severity, finding.what) for finding in told]


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_one_block_of_a_long_row_with_another_scale_is_an_error_that_names_it(factor: float) -> None:
    """Its error is a hundredth of the row's own."""
    right = rounded(GRIDS["int4 blockwise 32"], LONG)
    scale = right.scale.copy()
    scale[5, 6] *= factor
    ((severity, what),) = of_long_rows(changed(right, scale=scale))
    assert severity == "error"
    assert "1 block is too far off, most block 6 of row 5 (numbers 192 to 223)" in what
    assert of_long_rows(right) == []


def test_numbers_that_a_method_moves_on_purpose_are_a_warning_in_blocks_too() -> None:
    """A tenth of them by a step, in 2,048 blocks: by chance many in some."""
    right = rounded(GRIDS["int4 blockwise 32"], LONG)
    moved = right.whole + (RNG.random(right.whole.shape) < 0.1) * RNG.choice([-1, 1], right.whole.shape)
    ((severity, what),) = of_long_rows(changed(right, whole=np.clip(moved, -8, 7).astype(np.int8)))
    assert severity == "warning"
    assert "too far off" not in what


def test_numbers_that_lie_on_their_grid_by_chance_make_no_block_too_far_off() -> None:
    """Against an error of nothing, one number that is moved by a step would be any times too much."""
    right = rounded(GRIDS["int4 blockwise 32"], LONG)
    weight = LONG.copy()
    weight[3, :32] = right.values[3, :32]
    whole = right.whole.copy()
    whole[3, 7] += 1 if whole[3, 7] < 7 else -1
    found = fit(changed(right, whole=whole), weight)
    assert (found.beyond, found.far_blocks, found.far_rows, found.farthest) == (1, 0, 0, None)
