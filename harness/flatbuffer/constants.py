"""The bytes of a flatbuffer's constants as numbers: floats and whole numbers as the file has them.

In: a file and one of its tensors. Out: an array of the tensor's shape, or None for a tensor that is not a constant.
`harness/flatbuffer/quantised.py` tells what narrow numbers stand for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.flatbuffer.reader import FlatbufferModel, Subgraph

Array = np.ndarray[Any, Any]

_PLAIN = {
    "FLOAT32": "<f4",
    "FLOAT16": "<f2",
    "FLOAT64": "<f8",
    "INT64": "<i8",
    "INT32": "<i4",
    "INT16": "<i2",
    "INT8": "i1",
    "UINT8": "u1",
    "BOOL": "?",
}
NARROW = frozenset({"INT8", "INT4", "INT2"})


def whole_numbers(model: FlatbufferModel, graph: Subgraph, index: int) -> Array | None:
    """What the file holds of a tensor, not dequantised: `[*shape]`, int8 for the narrow types; None for no constant.

    Raises ValueError for a type that is not known here.
    """
    tensor = graph.tensors[index]
    data = model.buffer(tensor.buffer)
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, _PLAIN.get(tensor.dtype, "<f4"))
    if len(data) == 0:
        return None
    if tensor.dtype in ("INT4", "INT2"):
        values = unpacked(np.asarray(data), 4 if tensor.dtype == "INT4" else 2, int(np.prod(tensor.shape)))
    elif tensor.dtype in _PLAIN:
        values = np.frombuffer(data, _PLAIN[tensor.dtype])
    else:
        raise ValueError(f"tensor {index} is {tensor.dtype}, which is not read")
    return values.reshape(tensor.shape)


def unpacked(data: Array, bits: int, count: int) -> Array:
    """Whole numbers of 2 or 4 bits, the lowest bits of a byte first, sign extended."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (data[:, None] >> shifts) & ((1 << bits) - 1)
    values = fields.reshape(-1)[:count].astype(np.int8)
    return np.where(values >= 1 << (bits - 1), values - (1 << bits), values).astype(np.int8)
