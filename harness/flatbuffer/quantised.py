"""How a flatbuffer's constants stand for their numbers: the grid of each, and the numbers that it holds.

In: a file and a constant. Out: a `Grid`, and `Held`, the whole numbers with their scales, dequantised on demand. Every
layout that ai-edge-quantizer and litert-torch write: one scale, one for each channel of an axis, one for each block of
a row, in 8, 4 or 2 bits, and float16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.flatbuffer.constants import NARROW, whole_numbers
from harness.flatbuffer.reader import FlatbufferModel, Subgraph

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int8]

BITS = {"INT8": 8, "INT4": 4, "INT2": 2}


def grid_words(dtype: str, granularity: str) -> str:
    """A grid for people: `int4 blockwise 32`. dtype: empty for float32. granularity: empty where nothing is scaled."""
    return f"{dtype or 'FLOAT32'} {granularity.replace('_', ' ')}".strip().lower()


@dataclass(frozen=True)
class Grid:
    """The numbers that a constant can hold.

    dtype: of the schema, `INT8` or `FLOAT16`. axis: along which each index has a scale of its own; None for one scale
    for all, or none. block: how many neighbours of a row share a scale; 0 where there are no blocks.
    """

    dtype: str
    axis: int | None = None
    block: int = 0

    @property
    def bits(self) -> int:
        """Of one number."""
        return BITS.get(self.dtype) or {"FLOAT16": 16}.get(self.dtype, 32)

    @property
    def granularity(self) -> str:
        """As ai-edge-quantizer calls it, `CHANNELWISE`; empty for numbers that have no scale."""
        if self.dtype not in NARROW:
            return ""
        if self.block:
            return f"BLOCKWISE_{self.block}"
        return "TENSORWISE" if self.axis is None else "CHANNELWISE"

    def __str__(self) -> str:
        return grid_words(self.dtype, self.granularity)


@dataclass(frozen=True)
class Held:
    """What a constant holds.

    whole: whole numbers of a narrow type, or the floats themselves, in the tensor's shape.
    scale, zero: of the shape of `whole` with 1 where numbers share them, blocks aside: there the last axis has one
        entry for each block. Empty for floats.
    """

    grid: Grid
    whole: npt.NDArray[Any]
    scale: Floats
    zero: Floats

    @property
    def values(self) -> Floats:
        """The numbers that it stands for, exactly: `(whole - zero) * scale` in float64."""
        wide: Floats = self.whole.astype(np.float64)
        return wide if self.grid.dtype not in NARROW else (wide - self._spread(self.zero)) * self._spread(self.scale)

    def times(self, factor: float) -> Held:
        """What stands for each of the numbers multiplied, on a grid that is multiplied too."""
        if self.grid.dtype in NARROW:
            return replace(self, scale=self.scale * factor)
        return replace(self, whole=self.whole.astype(np.float64) * factor)

    @property
    def spread_scale(self) -> Floats:
        """The step of each number, in a shape that goes with `whole`."""
        return self._spread(self.scale)

    def _spread(self, each: Floats) -> Floats:
        return np.repeat(each, self.grid.block, axis=-1) if self.grid.block else each

    def rows(self, rows: slice) -> Held:
        """The same of some rows, the first axis."""
        scale, zero = (
            each[rows] if each.shape[:1] == self.whole.shape[:1] else each for each in (self.scale, self.zero)
        )
        return Held(self.grid, self.whole[rows], scale, zero)

    def nearest(self, wanted: Floats) -> Floats:
        """The numbers of the grid that are nearest to others of the same shape."""
        scale, zero = self._spread(self.scale), self._spread(self.zero)
        with np.errstate(divide="ignore", invalid="ignore"):
            near: Floats = (np.clip(np.rint(wanted / scale) + zero, *self.ends) - zero) * scale
        return np.where(np.isfinite(near), near, 0.0)

    def grouped(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
        """Numbers of this shape with those apart that share a scale, and the axes along which they share it."""
        if self.grid.block:
            return values.reshape(*values.shape[:-1], -1, self.grid.block), (values.ndim,)
        return values, tuple(axis for axis in range(values.ndim) if axis != self.grid.axis)

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the largest whole number of its type."""
        half = 1 << (self.grid.bits - 1)
        return -half, half - 1


def grid_of(model: FlatbufferModel, graph: Subgraph, index: int) -> Grid:
    """Raises ValueError for a quantisation that is not known here."""
    dtype = graph.tensors[index].dtype
    if dtype not in NARROW:
        return Grid(dtype)
    quantization = model.quantization(graph.index, index)
    details = getattr(quantization, "details", None)
    if details is not None and hasattr(details, "blockSize"):
        if details.blockSize <= 0:
            raise ValueError(f"tensor {index} has blocks of {details.blockSize}")
        return Grid(dtype, block=int(details.blockSize))
    if details is not None:
        raise ValueError(f"tensor {index} is quantised in a way that is not known ({type(details).__name__})")
    scales = _scales(quantization)
    if scales == 0:
        raise ValueError(f"tensor {index} is {dtype} and has no scale")
    return Grid(dtype, int(quantization.quantizedDimension) if scales > 1 else None)


def _scales(quantization: Any) -> int:
    """How many a tensor has of its own, those of blocks aside."""
    return 0 if quantization is None or quantization.scale is None else len(quantization.scale)


def constant(model: FlatbufferModel, graph: Subgraph, index: int) -> npt.NDArray[Any] | None:
    """The values of a tensor that the file holds; None for one that is computed.

    Floats and whole numbers as they are, those of a narrow type that has no scale too; others dequantised, float64.
    Raises ValueError as `held` does.
    """
    values = whole_numbers(model, graph, index)
    if values is None or graph.tensors[index].dtype not in NARROW:
        return values
    quantization = model.quantization(graph.index, index)
    if not _scales(quantization) and getattr(quantization, "details", None) is None:
        return values
    return held(model, graph, index).values


def dequantised(model: FlatbufferModel, graph: Subgraph, index: int) -> tuple[Floats, Floats] | None:
    """The numbers that a constant stands for, and the step of each; a step is 0 where there is none. Float64.

    As `constant`, and also biases of 32 bits, which kernels add to products of whole numbers. None for no constant.
    """
    values = constant(model, graph, index)
    if values is None:
        return None
    tensor = graph.tensors[index]
    quantization = model.quantization(graph.index, index)
    if not _scales(quantization) or tensor.dtype not in {*NARROW, "INT16", "INT32"}:
        return _floats(values), np.zeros(values.shape)
    if tensor.dtype in NARROW:
        return _floats(values), np.broadcast_to(held(model, graph, index).spread_scale, values.shape)
    step = np.broadcast_to(_floats(quantization.scale), values.shape)  # one for all, or one for each of a vector
    return _floats(values) * step, step


def held(model: FlatbufferModel, graph: Subgraph, index: int) -> Held:
    """What a constant holds. Raises ValueError for a type, a shape or a quantisation that is not known here."""
    grid = grid_of(model, graph, index)
    whole = whole_numbers(model, graph, index)
    if whole is None:
        raise ValueError(f"tensor {index} is not a constant")
    if grid.dtype not in NARROW:
        return Held(grid, whole, np.zeros(0), np.zeros(0))
    quantization = model.quantization(graph.index, index)
    if grid.block:
        return _blocks(model, graph, grid, whole, quantization.details)
    shape = [1] * whole.ndim
    if grid.axis is not None:
        if not 0 <= grid.axis < whole.ndim or len(quantization.scale) != whole.shape[grid.axis]:
            raise ValueError(f"tensor {index} has {len(quantization.scale)} scales along axis {grid.axis}")
        shape[grid.axis] = -1
    zero = quantization.zeroPoint if quantization.zeroPoint is not None else np.zeros(len(quantization.scale))
    if len(zero) != len(quantization.scale):
        raise ValueError(f"tensor {index} has {len(zero)} zero points for {len(quantization.scale)} scales")
    return Held(grid, whole, _floats(quantization.scale).reshape(shape), _floats(zero).reshape(shape))


def _blocks(model: FlatbufferModel, graph: Subgraph, grid: Grid, whole: Whole, details: Any) -> Held:
    """Scales and zero points of blocks are tensors of their own."""
    scales = whole_numbers(model, graph, details.scales)
    if scales is None or grid.block <= 0 or whole.shape[-1] % grid.block:
        raise ValueError(f"blocks of {grid.block} do not divide rows of {whole.shape[-1]}")
    shape = (*whole.shape[:-1], whole.shape[-1] // grid.block)
    if scales.size != int(np.prod(shape)):
        raise ValueError(f"{scales.size} scales for {int(np.prod(shape))} blocks")
    zero = np.zeros(shape)
    if details.zeroPoints >= 0:
        points = whole_numbers(model, graph, details.zeroPoints)
        if points is not None and points.size:
            zero = _floats(points).reshape(shape) if points.size == scales.size else zero + float(points.reshape(-1)[0])
    return Held(grid, whole, _floats(scales).reshape(shape), zero)


def _floats(values: Any) -> Floats:
    return np.asarray(values).astype(np.float64)
