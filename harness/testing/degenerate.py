"""Inputs at which a reference shows nothing of what it does: all zero, or one number throughout each row.

In: a reference, a call and what the reference gave. Out: whether the call tests nothing of what is done to its inputs.
A linear layer gives its bias of zeros, whatever its weight; a layer norm gives its bias of ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from harness.testing.outputs import Array, Output
from harness.testing.running import Call, as_tensor, exact_outputs, mapped, tensors_of

_STEP = 0.1  # how far inputs are moved, in units of their size
_SAME = 1e-9  # of float64 runs, relative to the largest number of an output


def shows_nothing(reference: Callable[..., Any], call: Call, exact: Mapping[str, Output]) -> bool:
    """Whether the reference gives what it gives for zeros, and something else as soon as the inputs are moved.

    exact: what it gives in float64. An output that stays as it is when inputs are moved (a mask made of a shape, a
    layer whose weight is zero) says nothing for or against; one that whole numbers decide is tested by those.
    """
    tensors = tensors_of(mapped((call.inputs, dict(call.keywords)), as_tensor))
    floats = [one for one in tensors if one.is_floating_point() and one.numel()]
    if not floats or not all(_is_flat(one) for one in floats):
        return False
    with contextlib.suppress(Exception):  # what does not run on other inputs depends on these
        blank = exact_outputs(reference, _with(call, _blank))
        if not _same(exact, blank):
            return False
        draw = torch.Generator().manual_seed(call.seed)
        return not _same(exact, exact_outputs(reference, _with(call, lambda one: _moved(one, draw))))
    return False


def _is_flat(tensor: torch.Tensor) -> bool:
    """Zeros, or one number throughout each row. A single number is not a row."""
    if not bool(tensor.any()):
        return True
    return tensor.dim() > 0 and tensor.shape[-1] > 1 and bool((tensor == tensor[..., :1]).all())


def _with(call: Call, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
    def changed(value: Any) -> Any:
        tensor = as_tensor(value)
        return change(tensor) if isinstance(tensor, torch.Tensor) else value

    return replace(call, inputs=mapped(call.inputs, changed), keywords=mapped(dict(call.keywords), changed))


def _blank(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros for float numbers; whole ones are made others, for an output that they decide is tested."""
    if tensor.is_floating_point() or tensor.is_complex() or bool(tensor.any()):
        return torch.zeros_like(tensor)
    return torch.ones_like(tensor)


def _moved(tensor: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    size = float(tensor.abs().max()) if tensor.numel() else 0.0
    return tensor + (_STEP * (size or 1.0) * torch.randn(tensor.shape, generator=draw)).to(tensor.dtype)


def _same(one: Mapping[str, Output], other: Mapping[str, Output]) -> bool:
    return one.keys() == other.keys() and all(_alike(one[name].values, other[name].values) for name in one)


def _alike(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype.kind != other.dtype.kind:
        return False
    if one.dtype.kind not in "fc":
        return np.array_equal(one, other)
    finite = np.abs(one[np.isfinite(one)])
    return bool(np.allclose(one, other, rtol=0, atol=_SAME * float(finite.max(initial=0.0)), equal_nan=True))
