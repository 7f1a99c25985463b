"""The rotary embedding with its frequencies rounded another way: a further sample of what float32 costs far out.

In: a loaded model. Out: nothing; within the context its frequencies are one step of float32 off.

A frequency in float32 is off by up to half a step, and the angle at position p by p times that: 2e-4 of a radian at
4,096. All runs of one model share that error whatever the order of their sums, and two right versions that compute the
frequencies by another formula do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_NAME = "inv_freq"


@contextmanager
def rounded_otherwise(network: Any) -> Iterator[int]:
    """Move every other frequency up by a step and the rest down. Yields how many buffers of them there are."""
    buffers = [values for name, values in network.named_buffers() if name.rpartition(".")[2] == _NAME]
    before = [values.clone() for values in buffers]
    for values in buffers:
        ends = torch.full_like(values, torch.inf)
        ends[..., 1::2] = -torch.inf
        values.copy_(torch.nextafter(values, ends))
    try:
        yield len(buffers)
    finally:
        for values, old in zip(buffers, before, strict=True):
            values.copy_(old)
