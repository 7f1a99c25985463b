"""Operators on images by their definitions: convolutions and pools, in float64.

In: a call. Out: its values and the sum of the sizes of the terms of each, for the bound on a kernel's error. Images are
`[batch, height, width, channels]`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from harness.operators.definitions import Call

Array = np.ndarray[Any, Any]
_SAME = 0  # padding, in the schema


def convolution(call: Call) -> tuple[Array, Array, int]:
    """CONV_2D: values, sizes, terms of each sum. weight: `[out, height, width, in / groups]`."""
    weight = call[1]
    windows = _windows(call, call[0], weight.shape[1:3])  # [batch, y, x, channels, height, width]
    groups = call[0].shape[-1] // weight.shape[-1]
    made, sizes = [], []
    for part, kernels in zip(np.split(windows, groups, 3), np.split(weight, groups, 0), strict=True):
        turned = kernels.transpose(3, 1, 2, 0)
        made.append(np.tensordot(part, turned, axes=([3, 4, 5], [0, 1, 2])))
        sizes.append(np.tensordot(np.abs(part), np.abs(turned), axes=([3, 4, 5], [0, 1, 2])))
    return np.concatenate(made, -1), np.concatenate(sizes, -1), math.prod(weight.shape[1:])


def depthwise_convolution(call: Call) -> tuple[Array, Array, int]:
    """DEPTHWISE_CONV_2D. weight: `[1, height, width, channels * multiplier]`."""
    weight, channels = call[1][0], call[0].shape[-1]
    windows = _windows(call, call[0], weight.shape[:2])
    turned = weight.reshape(*weight.shape[:2], channels, -1)
    made, sizes = (
        np.einsum("byxcij,ijcm->byxcm", x, k, optimize=True)
        for x, k in ((windows, turned), (np.abs(windows), np.abs(turned)))
    )
    shape = (*made.shape[:3], -1)
    return made.reshape(shape), sizes.reshape(shape), math.prod(weight.shape[:2])


def average_pool(call: Call) -> tuple[Array, Array, int]:
    """AVERAGE_POOL_2D: padding does not count."""
    size = int(call.options["filterHeight"]), int(call.options["filterWidth"])
    counts = _windows(call, np.ones_like(call[0]), size).sum((4, 5))
    windows = _windows(call, call[0], size)
    return windows.sum((4, 5)) / counts, np.abs(windows).sum((4, 5)) / counts, math.prod(size)


def max_pool(call: Call) -> Array:
    size = int(call.options["filterHeight"]), int(call.options["filterWidth"])
    return np.asarray(_windows(call, call[0], size, -math.inf).max((4, 5)))


def padded(call: Call) -> Array:
    """PAD and PADV2."""
    value = float(np.ravel(call[2])[0]) if len(call.inputs) > 2 and call.inputs[2] is not None else 0.0
    return np.pad(call[0], call[1].astype(np.int64), constant_values=value)


def _windows(call: Call, x: Array, size: tuple[int, ...], fill: float = 0.0) -> Array:
    """`[batch, y, x, channels, height, width]` of what each output looks at."""
    steps = int(call.options["strideH"]), int(call.options["strideW"])
    spread = int(call.options.get("dilationHFactor", 1)), int(call.options.get("dilationWFactor", 1))
    spans = [(extent - 1) * each + 1 for extent, each in zip(size, spread, strict=True)]
    if int(call.options["padding"]) == _SAME:
        pads = []
        for extent, span, step in zip(x.shape[1:3], spans, steps, strict=True):
            total = max((-(-extent // step) - 1) * step + span - extent, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    windows = sliding_window_view(x, tuple(spans), (1, 2))
    return windows[:, :: steps[0], :: steps[1], :, :: spread[0], :: spread[1]]
