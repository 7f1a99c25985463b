"""What a flatbuffer's constants hold, in every layout that quantisers write, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_file

from harness.flatbuffer.quantised import Held, constant, grid_of, held
from harness.flatbuffer.reader import FlatbufferModel, Subgraph

pytestmark = pytest.mark.miniature  # the schema is the runtime's own
ROWS, WIDTH = 4, 8
NUMBERS = (np.arange(ROWS * WIDTH) % 15 - 7).astype(np.int8).reshape(ROWS, WIDTH)


def nibbles(values: np.ndarray, bits: int = 4) -> np.ndarray:
    """Whole numbers packed as the schema has them, the first in the lowest bits."""
    fields = (values.reshape(-1, 8 // bits).astype(np.uint8) & ((1 << bits) - 1)).astype(np.uint16)
    packed = sum(fields[:, place] << (bits * place) for place in range(8 // bits))
    return np.asarray(packed).astype(np.uint8)


class File:
    """A flatbuffer of tensors that nothing reads."""

    def __init__(self, folder: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.model, self.path = schema, small_file.small(), folder / "file.tflite"

    def put(self, kind: str, shape: list[int], data: np.ndarray | None) -> Any:
        """A tensor, with a buffer of its own unless it has no data."""
        number = 0
        if data is not None:
            self.model.buffers.append(self.schema.BufferT())
            self.model.buffers[-1].data = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
            number = len(self.model.buffers) - 1
        made = small_file.tensor(self.schema, f"w{number}", shape, number, kind)
        self.model.subgraphs[0].tensors.append(made)
        return made

    def scaled(self, tensor: Any, scale: list[float], axis: int = 0, zero: list[int] | None = None) -> Any:
        tensor.quantization = self.schema.QuantizationParametersT()
        tensor.quantization.scale = np.array(scale, np.float32)
        tensor.quantization.zeroPoint = np.array(zero if zero is not None else [0] * len(scale), np.int64)
        tensor.quantization.quantizedDimension = axis
        return tensor

    def in_blocks(self, tensor: Any, size: int, scales: Any, points: Any = None) -> None:
        """scales, points: tensors of this file."""
        tensors = self.model.subgraphs[0].tensors
        details = self.schema.BlockwiseQuantizationT()
        details.scales, details.blockSize = tensors.index(scales), size
        details.zeroPoints = -1 if points is None else tensors.index(points)
        tensor.quantization = self.schema.QuantizationParametersT()
        tensor.quantization.detailsType = self.schema.QuantizationDetails.BlockwiseQuantization
        tensor.quantization.details = details

    def place(self, tensor: Any) -> tuple[FlatbufferModel, Subgraph, int]:
        """Where the tensor is in the file as it is now."""
        self.path.write_bytes(small_file.packed(self.model))
        file = FlatbufferModel(self.path)
        return file, file.subgraph(0), self.model.subgraphs[0].tensors.index(tensor)

    def read(self, tensor: Any) -> Held:
        """With what `constant` says of it, which is the same."""
        found = held(*self.place(tensor))
        assert np.array_equal(np.asarray(constant(*self.place(tensor))), found.values)
        return found


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


SCALES = np.array([0.5, 0.25, 2, 1])


def test_one_scale_for_all(file: File) -> None:
    found = file.read(file.scaled(file.put("INT8", [ROWS, WIDTH], NUMBERS), [0.5], zero=[3]))
    assert (str(found.grid), found.grid.bits, found.grid.granularity) == ("int8 tensorwise", 8, "TENSORWISE")
    assert np.array_equal(found.values, (NUMBERS.astype(float) - 3) * 0.5)


@pytest.mark.parametrize("axis", [0, 1])
def test_one_scale_for_each_channel_of_an_axis(file: File, axis: int) -> None:
    scale = SCALES if axis == 0 else np.tile(SCALES, 2)
    zero = list(range(len(scale)))
    found = file.read(file.scaled(file.put("INT8", [ROWS, WIDTH], NUMBERS), list(scale), axis, zero))
    shape = (-1, 1) if axis == 0 else (1, -1)
    assert (str(found.grid), found.grid.axis) == ("int8 channelwise", axis)
    assert np.array_equal(found.values, (NUMBERS - np.array(zero).reshape(shape)) * scale.reshape(shape))
    assert np.array_equal(found.rows(slice(1, 3)).values, found.values[1:3])


def test_four_bits_two_to_a_byte_the_first_in_the_lower(file: File) -> None:
    found = file.read(file.scaled(file.put("INT4", [ROWS, WIDTH], nibbles(NUMBERS)), list(SCALES)))
    assert (found.grid.bits, found.ends) == (4, (-8, 7))
    assert np.array_equal(found.whole, NUMBERS)
    assert np.array_equal(found.values, NUMBERS * SCALES[:, None])


def test_two_bits_four_to_a_byte(file: File) -> None:
    numbers = (np.arange(ROWS * WIDTH) % 4 - 2).astype(np.int8).reshape(ROWS, WIDTH)
    found = file.read(file.scaled(file.put("INT2", [ROWS, WIDTH], nibbles(numbers, 2)), list(SCALES)))
    assert (found.grid.bits, found.ends) == (2, (-2, 1))
    assert np.array_equal(found.whole, numbers)


@pytest.mark.parametrize("kind", ["FLOAT16", "FLOAT32"])
@pytest.mark.parametrize("points", ["none", "one", "each"])
def test_blocks_whose_scales_are_a_tensor(file: File, kind: str, points: str) -> None:
    scale = np.arange(1, 9).reshape(ROWS, 2) / 4
    weight = file.put("INT4", [ROWS, WIDTH], nibbles(NUMBERS))
    scales = file.put(kind, [ROWS, 2], scale.astype(kind.lower()))
    zero = {"none": np.zeros(1), "one": np.full(1, 2), "each": np.arange(8)}[points]
    tensor = None if points == "none" else file.put("INT32", [zero.size], zero.astype(np.int32))
    file.in_blocks(weight, 4, scales, tensor)
    found = file.read(weight)
    spread = np.repeat(scale, 4, axis=1)
    each = np.repeat(np.resize(zero, 8).reshape(ROWS, 2), 4, axis=1)
    assert (str(found.grid), found.grid.block) == ("int4 blockwise 4", 4)
    assert np.array_equal(found.values, (NUMBERS - each) * spread)
    assert np.array_equal(found.spread_scale, spread)
    grouped, axes = found.grouped(NUMBERS)
    assert (grouped.shape, axes) == ((ROWS, 2, 4), (2,))


@pytest.mark.parametrize("kind", ["FLOAT16", "FLOAT32"])
def test_floats_are_what_they_are(file: File, kind: str) -> None:
    values = (NUMBERS / 4).astype(kind.lower())
    found = file.read(file.put(kind, [ROWS, WIDTH], values))
    assert (str(found.grid), found.grid.granularity) == (kind.lower(), "")
    assert np.array_equal(found.values, values.astype(np.float64))


def test_whole_numbers_that_stand_for_nothing_else_are_what_they_are(file: File) -> None:
    found = constant(*file.place(file.put("INT8", [ROWS, WIDTH], NUMBERS)))
    assert found is not None
    assert found.dtype == np.int8
    assert np.array_equal(found, NUMBERS)
    assert constant(*file.place(file.put("INT8", [ROWS, WIDTH], None))) is None


def test_the_nearest_numbers_are_within_half_a_step_and_on_the_grid(file: File) -> None:
    found = file.read(file.scaled(file.put("INT4", [ROWS, WIDTH], nibbles(NUMBERS)), list(SCALES)))
    wanted = np.linspace(-3, 3, ROWS * WIDTH).reshape(ROWS, WIDTH)
    near = found.nearest(wanted)
    inside = np.abs(wanted) <= 7 * SCALES[:, None]
    assert (np.abs(near - wanted) <= SCALES[:, None] / 2 + 1e-12)[inside].all()
    assert np.array_equal(near / SCALES[:, None], np.rint(near / SCALES[:, None]))


def refused(file: File, tensor: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are what the caller looks at
        file.read(tensor)
    return str(caught.value)


def test_what_has_no_numbers_or_no_scale_is_refused(file: File) -> None:
    assert "is not a constant" in refused(file, file.scaled(file.put("INT8", [ROWS, WIDTH], None), [1.0]))
    assert "has no scale" in refused(file, file.put("INT8", [ROWS, WIDTH], NUMBERS))
    assert "which is not read" in refused(file, file.put("STRING", [ROWS, WIDTH], NUMBERS))


def test_scales_and_zero_points_that_do_not_go_with_the_shape_are_refused(file: File) -> None:
    def weight() -> Any:
        return file.put("INT8", [ROWS, WIDTH], NUMBERS)

    assert "4 scales along axis 1" in refused(file, file.scaled(weight(), list(SCALES), axis=1))
    assert "4 scales along axis 2" in refused(file, file.scaled(weight(), list(SCALES), axis=2))
    assert "3 scales along axis 0" in refused(file, file.scaled(weight(), [1.0, 1, 1]))
    assert "2 zero points for 4 scales" in refused(file, file.scaled(weight(), list(SCALES), zero=[0, 0]))


def test_blocks_that_do_not_divide_the_rows_are_refused(file: File) -> None:
    scales = file.put("FLOAT16", [ROWS, 2], np.ones((ROWS, 2), np.float16))
    none = file.put("FLOAT16", [ROWS, 2], None)
    for size, given, says in (
        (3, scales, "blocks of 3 do not divide rows of 8"),
        (0, scales, "blocks of 0"),
        (-4, scales, "blocks of -4"),
        (2, scales, "8 scales for 16 blocks"),
        (4, none, "blocks of 4"),
    ):
        weight = file.put("INT4", [ROWS, WIDTH], nibbles(NUMBERS))
        file.in_blocks(weight, size, given)
        assert says in refused(file, weight)


def test_a_quantisation_that_is_not_known_is_refused(file: File) -> None:
    weight = file.scaled(file.put("INT8", [ROWS, WIDTH], NUMBERS), [1.0])
    weight.quantization.detailsType = file.schema.QuantizationDetails.CustomQuantization
    weight.quantization.details = file.schema.CustomQuantizationT()
    assert "quantised in a way that is not known (CustomQuantization" in refused(file, weight)


def test_numbers_of_a_weight_that_the_file_lacks_are_refused(file: File) -> None:
    assert "cannot reshape" in refused(file, file.scaled(file.put("INT8", [ROWS, WIDTH], NUMBERS[:2]), [1.0]))


def test_a_grid_is_told_without_reading_numbers(file: File) -> None:
    tensor = file.scaled(file.put("INT8", [ROWS, WIDTH], NUMBERS), list(SCALES))
    file.read(tensor)
    opened = FlatbufferModel(file.path)
    assert str(grid_of(opened, opened.subgraph(0), file.model.subgraphs[0].tensors.index(tensor))) == "int8 channelwise"
