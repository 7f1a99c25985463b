"""A layer's weight in a quantised flatbuffer that is being rewritten: its tables, its scales and its numbers.

In: a quantised file and a layer. Out: the same file with something else in that layer. Signatures share the numbers of
a weight, and each has scales of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.align.plan import AlignmentPlan
from harness.align.views import TapSource
from harness.align.weights import file_weights
from harness.flatbuffer.quantised import Held, held
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.writing import Rewriting

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
_SCALE_TYPES = {0: np.float32, 1: np.float16}  # of `TensorType`
EVERY = slice(None)


@dataclass(frozen=True)
class QuantisedFile:
    """A file, its tapped copy and where its taps are."""

    file: Path
    tapped: Path
    plan: Path

    @property
    def sources(self) -> dict[str, dict[str, TapSource]]:
        """signature -> tap -> where it is."""
        return dict(AlignmentPlan.read(self.plan).sources)


class NarrowWeight:
    """A layer's weight in a file that is being rewritten.

    held: what the file holds of it, by the last signature. Raises AssertionError for a layer that the file has not.
    """

    def __init__(self, work: Rewriting, source: QuantisedFile, layer: str) -> None:
        self.work, self.source = work, source
        file = FlatbufferModel(source.file)
        self.file = file
        self.places: list[tuple[int, int]] = []  # subgraph and tensor, for each signature
        self.biases: list[tuple[int, int]] = []
        for graph, found in file_weights(file, source.sources):
            if found.layer != layer:
                continue
            self.places.append((graph.index, found.constant))
            if found.bias is not None:
                self.biases.append((graph.index, found.bias))
            self.held: Held = held(file, graph, found.constant)
        assert self.places, f"{source.file} has no weight of {layer}"

    def other(self, layer: str) -> NarrowWeight:
        """The weight of another layer of the same file."""
        return NarrowWeight(self.work, self.source, layer)

    @property
    def tensors(self) -> list[Any]:
        """The tensor of each signature, in its object form."""
        return [self.work.model.subgraphs[graph].tensors[index] for graph, index in self.places]

    def scales(self, change: Callable[[Array], Any], signatures: slice = EVERY) -> None:
        """Change the scales, `[channels]` or `[rows, blocks]`, in place. signatures: of which ones."""
        for (graph, _), tensor in list(zip(self.places, self.tensors, strict=True))[signatures]:
            details = tensor.quantization.details
            if details is None:
                values = np.array(tensor.quantization.scale, np.float32)
                change(values)
                tensor.quantization.scale = values
            else:
                holder = self.work.model.subgraphs[graph].tensors[details.scales]
                held_as = self._bytes(holder.buffer).view(_SCALE_TYPES[holder.type])
                values = held_as.reshape(self.held.scale.shape).copy()
                change(values)
                self._put(holder, values.view(np.uint8).reshape(-1))

    def zero_points(self, change: Callable[[Array], Any]) -> None:
        """Change the zero points, `[channels]`, in place."""
        for tensor in self.tensors:
            points = tensor.quantization.zeroPoint
            values = np.zeros(len(tensor.quantization.scale), np.int64) if points is None else np.array(points)
            change(values)
            tensor.quantization.zeroPoint = values

    def numbers(self, change: Callable[[Bytes], Bytes]) -> None:
        """Change the bytes that hold the numbers."""
        changed = change(self._bytes(self.tensors[0].buffer).copy())
        for number in {tensor.buffer for tensor in self.tensors}:
            self._put_bytes(number, changed)

    def whole(self, change: Callable[[Array], Array]) -> None:
        """Change the whole numbers, or float16 ones, in the weight's shape."""
        changed = np.ascontiguousarray(change(self.held.whole.copy()), self.held.whole.dtype).reshape(-1)
        content: Bytes = changed.view(np.uint8)
        if self.held.grid.bits == 4:
            content = ((content[1::2] << 4) | (content[0::2] & 15)).astype(np.uint8)
        self.numbers(lambda _: content)

    def bias(self, change: Callable[[Array], Array]) -> None:
        """Change the bias, float32. Raises AssertionError for a layer that has none."""
        assert self.biases, "this layer has no bias"
        for graph, index in self.biases:
            tensor = self.work.model.subgraphs[graph].tensors[index]
            changed = np.asarray(change(self._bytes(tensor.buffer).view(np.float32).copy()), np.float32)
            self._put(tensor, changed.view(np.uint8))

    def _bytes(self, number: int) -> Bytes:
        """As the file has them: whoever changes a buffer twice starts again."""
        return np.asarray(self.file.buffer(number), np.uint8)

    def _put(self, tensor: Any, values: Bytes) -> None:
        """Into a buffer of its own: others may share the old one."""
        from ai_edge_litert import schema_py_generated as schema

        self.work.model.buffers.append(schema.BufferT())
        tensor.buffer = len(self.work.model.buffers) - 1
        self._put_bytes(tensor.buffer, values)

    def _put_bytes(self, number: int, values: Bytes) -> None:
        buffer = self.work.model.buffers[number]
        buffer.data, buffer.offset, buffer.size = values, 0, 0


def broken(source: QuantisedFile, layer: str, change: Callable[[NarrowWeight], Any], target: Path) -> Path:
    """Write a copy of a file in which something is wrong with the weight of a layer."""
    work = Rewriting(source.file)
    change(NarrowWeight(work, source, layer))
    work.write(target)
    return target
