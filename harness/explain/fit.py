"""Numbers that fit what is observed: searched for, then replaced by a common one that fits as well. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

_RATIO = (math.sqrt(5) - 1) / 2
_COARSE = 4  # of the numbers to start from, one in so many tells where the valley is
_NARROW = 0.03  # of a logarithm: over so little a loss is convex; further away it levels off, around whatever valley
_DOUBT = 0.25  # share of the loss's fall there by which it may lie below what a convex one could
_AS_WELL = 1.05  # a common number may leave this much more error than the best one


def best_number(
    loss: Callable[[float], float], start: Iterable[float], common: Iterable[float], useful: float | None = None
) -> float:
    """The number with the least loss, or a common one that does nearly as well. Arguments as of `search`."""
    found = search(loss, start, useful=useful)
    return found if useful is not None and _number(loss(found)) > useful else snapped(found, loss, common)


def search(
    loss: Callable[[float], float], start: Iterable[float], steps: int = 40, useful: float | None = None
) -> float:
    """The positive number with the least loss: the best of `start`, then golden section on the logarithm around it.

    start: at least one; its neighbours in size bound the second search.
    useful: for a loss with one valley, the largest that is of use to anybody. Starts far from the valley are then left
    out, and where nothing in it can have so small a loss, the search ends with the best so far.
    """
    losses: dict[float, float] = {}

    def at(value: float) -> float:
        if value not in losses:
            losses[value] = _number(loss(value))
        return losses[value]

    tried = sorted(set(start))
    found = min(tried if useful is None else _near_the_valley(tried, at), key=at)
    best, least = tried.index(found), at(found)
    low = tried[best - 1] if best else found / 2
    high = tried[best + 1] if best + 1 < len(tried) else found * 2
    a, b = math.log(low), math.log(high)
    c, d = b - _RATIO * (b - a), a + _RATIO * (b - a)
    at_c, at_d = at(math.exp(c)), at(math.exp(d))
    at_a, at_b = (0.0, 0.0) if useful is None else (at(low), at(high))
    for _ in range(steps):
        if useful is not None and b - a < _NARROW:
            lowest = _lowest((a, at_a), (c, at_c), (d, at_d), (b, at_b))
            contradicted = a < math.log(found) < b and least < lowest
            if min(least, lowest) > useful and not contradicted:
                break
        if at_c < at_d:
            b, at_b, d, at_d = d, at_d, c, at_c
            c = b - _RATIO * (b - a)
            at_c = at(math.exp(c))
        else:
            a, at_a, c, at_c = c, at_c, d, at_d
            d = a + _RATIO * (b - a)
            at_d = at(math.exp(d))
    value, size = (c, at_c) if at_c < at_d else (d, at_d)
    return math.exp(value) if size < least else found


def _near_the_valley(tried: Sequence[float], at: Callable[[float], float]) -> Sequence[float]:
    """The numbers, ascending, between the neighbours of the best of every fourth of them."""
    coarse = sorted({*range(0, len(tried), _COARSE), len(tried) - 1})
    best = coarse.index(min(coarse, key=lambda index: at(tried[index])))
    first, last = coarse[max(best - 1, 0)], coarse[min(best + 1, len(coarse) - 1)]
    return tried[first : last + 1]


def _lowest(*points: tuple[float, float]) -> float:
    """What a loss through these points may fall to between them, with some doubt about its being convex."""
    bound = _bound(*points)
    return bound - _DOUBT * (max(size for _, size in points) - bound)


def _bound(*points: tuple[float, float]) -> float:
    """What no convex curve through these four points, ascending, falls below between the first and the last."""
    (a, at_a), (c, at_c), (d, at_d), (b, at_b) = points
    if not all(math.isfinite(size) for _, size in points) or not a < c < d < b:
        return -math.inf
    before, between, after = (at_c - at_a) / (c - a), (at_d - at_c) / (d - c), (at_b - at_d) / (b - d)
    if before >= after:  # a straight line, or no convex curve: nothing is known
        return -math.inf
    # Between two points the curve is above the lines through those on either side, which meet at x.
    x = (at_d - at_c + before * c - after * d) / (before - after)
    inner = at_c + before * (min(max(x, c), d) - c) if before < 0 < after else min(at_c, at_d)
    return min(inner, at_c - max(between, 0.0) * (c - a), at_d + min(between, 0.0) * (b - d))


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
