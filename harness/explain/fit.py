"""Numbers that fit what is observed: searched for, then replaced by a common one that fits as well. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

_RATIO = (math.sqrt(5) - 1) / 2
_AS_WELL = 1.05  # a common number may leave this much more error than the best one


def search(loss: Callable[[float], float], start: Iterable[float], steps: int = 40) -> float:
    """The positive number with the least loss: the best of `start`, then golden section on the logarithm around it.

    start: at least one; its neighbours in size bound the second search.
    """
    tried = sorted(set(start))
    losses = [_number(loss(value)) for value in tried]
    best = min(range(len(tried)), key=losses.__getitem__)
    low = tried[best - 1] if best else tried[best] / 2
    high = tried[best + 1] if best + 1 < len(tried) else tried[best] * 2
    found, least = tried[best], losses[best]
    a, b = math.log(low), math.log(high)
    c, d = b - _RATIO * (b - a), a + _RATIO * (b - a)
    at_c, at_d = _number(loss(math.exp(c))), _number(loss(math.exp(d)))
    for _ in range(steps):
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - _RATIO * (b - a)
            at_c = _number(loss(math.exp(c)))
        else:
            a, c, at_c = c, d, at_d
            d = a + _RATIO * (b - a)
            at_d = _number(loss(math.exp(d)))
    value, size = (c, at_c) if at_c < at_d else (d, at_d)
    return math.exp(value) if size < least else found


def snapped(value: float, loss: Callable[[float], float], common: Iterable[float]) -> float:
    """The value, or the first common number that does nearly as well, or the value with as few digits as do."""
    limit = _AS_WELL * _number(loss(value))
    near = sorted((c for c in common if c and value and 0.5 < c / value < 2), key=lambda c: abs(math.log(c / value)))
    for candidate in near[:3]:
        if _number(loss(candidate)) <= limit:
            return candidate
    for digits in range(1, 7):
        rounded = float(f"{value:.{digits}g}")
        if _number(loss(rounded)) <= limit:
            return rounded
    return value


def _number(loss: float) -> float:
    return loss if loss == loss else math.inf
