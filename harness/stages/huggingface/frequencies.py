"""The rotary embedding with its frequencies rounded another way: a further sample of what float32 costs far out.

In: a loaded model. Out: nothing; within the context each of its frequencies is the other one of the two numbers of
float32 that lie around the true one, or a whole step off.

A frequency in float32 is off by up to half a step, and the angle at position p by p times that: 2e-4 of a radian at
4,096. All runs of one model share that error whatever the order of their sums, and two right versions that compute the
frequencies by another formula do not. What any formula of float32 gives that is off by less than a step is one of these
two numbers. A frequency that float32 holds as it is, 1, has no other.

Past a thousand positions a sharp attention makes so much of an angle that one more draw of that size is not enough: of
SmolLM2's first two layers, on prose of 4,090 positions, a right model came to 13.9 of 16 with it. There each frequency
is a whole step off, up and down in turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.stages.torch.float64 import TrueFloat64

_NAME = "inv_freq"  # where layers have frequencies of their own, with their kind before it: "full_attention_inv_freq"


@contextmanager
def rounded_otherwise(network: Any, *, whole_step: bool = False) -> Iterator[int]:
    """Round every frequency to the other side, or a whole step off. Yields how many buffers of them there are."""
    found = [(values, other_side(values, None if whole_step else true)) for values, true in _frequencies(network)]
    before = [values.clone() for values, _ in found]
    for values, other in found:
        values.copy_(other)
    try:
        yield len(found)
    finally:
        for (values, _), old in zip(found, before, strict=True):
            values.copy_(old)


def other_side(values: torch.Tensor, true: torch.Tensor | None) -> torch.Tensor:
    """Of float32 numbers, those next to `true` (float64) on its other side; where that is not known, a step up and down
    in turns.
    """
    if true is None:
        ends = torch.full_like(values, torch.inf)
        ends[..., 1::2] = -torch.inf
        return torch.nextafter(values, ends)
    nearest = true.to(values.dtype)
    above = nearest.double() > true
    low = torch.where(above, torch.nextafter(nearest, torch.full_like(nearest, -torch.inf)), nearest)
    high = torch.where(above, nearest, torch.nextafter(nearest, torch.full_like(nearest, torch.inf)))
    other = torch.where(values.double() < true, high, low)
    return torch.where(values.double() == true, values, other)


def _frequencies(network: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """(the buffer in float32, the same in float64 where the module can be made once more)"""
    for module in network.modules():
        own = {name: values for name, values in module.named_buffers(recurse=False) if name.endswith(_NAME)}
        true = _in_float64(module) if own else {}
        for name, values in own.items():
            exact = true.get(name)
            yield values, exact if exact is not None and exact.shape == values.shape else None


def _in_float64(module: Any) -> dict[str, torch.Tensor]:
    """The buffers of a module of the same class and config; none where it is made in another way."""
    try:
        with TrueFloat64():
            made = type(module)(module.config)
    except Exception:  # a class of anybody's
        return {}
    return {name: values for name, values in made.named_buffers(recurse=False) if values.dtype == torch.float64}
