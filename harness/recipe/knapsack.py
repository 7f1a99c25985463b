"""Which recipe for which layer: the least cost that fits into so many bytes. Pure.

In: what each layer takes and costs under each recipe. Out: the best choice for any size. Costs add up: the KL of errors
that know nothing of each other does (the gains of a recipe's tensors come to its own KL within a few per cent).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_STEPS = 20_000  # that the sizes are counted in: 0.02 MB of a file that can shrink by 460 MB


@dataclass(frozen=True)
class LayerOption:
    """A layer under a recipe; `none` leaves it in float32. cost: KL in nats."""

    recipe: str
    size: float  # bytes
    cost: float


@dataclass(frozen=True)
class LayerChoice:
    """Layer -> recipe, what all of them take in bytes, and what they cost together."""

    recipes: Mapping[str, str]
    size: float
    cost: float


class Frontier:
    """The least cost for every size."""

    def __init__(self, layers: Mapping[str, Sequence[LayerOption]]) -> None:
        """layers: at least one option each. Costs that are not finite are never chosen where another one is there."""
        self._layers = {layer: [*_useful(options)] for layer, options in layers.items()}
        self.least = sum(min(option.size for option in options) for options in self._layers.values())
        self.most = sum(max(option.size for option in options) for options in self._layers.values())
        # Rounded up, so that what is chosen fits; a step for each layer makes up for it.
        self._step = max((self.most - self.least) / _STEPS, 1e-9)
        self._steps = _STEPS + len(self._layers) + 1
        self._best, self._taken = self._solved()

    def _solved(self) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.int8]]]:
        best = np.zeros(self._steps)
        taken = []
        for options in self._layers.values():
            smallest = min(option.size for option in options)
            tried = np.full((len(options), self._steps), np.inf)
            for row, option in enumerate(options):
                more = self._more(option, smallest)
                tried[row, more:] = best[: self._steps - more] + option.cost
            taken.append(tried.argmin(axis=0).astype(np.int8))
            best = tried.min(axis=0)
        return best, taken

    def _more(self, option: LayerOption, smallest: float) -> int:
        return int(np.ceil((option.size - smallest) / self._step - 1e-9))

    def within(self, size: float) -> LayerChoice | None:
        """The choice of the least cost that takes at most so many bytes; None where nothing fits."""
        if size < self.least:
            return None
        # What is chosen is smaller than its steps, which are rounded up for each layer.
        left = min(int((size - self.least) / self._step), self._steps - 1)
        chosen: dict[str, str] = {}
        total, cost = 0.0, 0.0
        for (layer, options), taken in zip(reversed(self._layers.items()), reversed(self._taken), strict=True):
            option = options[int(taken[left])]
            chosen[layer] = option.recipe
            total, cost = total + option.size, cost + option.cost
            left -= self._more(option, min(one.size for one in options))
        return LayerChoice(dict(reversed(chosen.items())), total, cost)

    def cheaper_than(self, cost: float) -> LayerChoice | None:
        """The smallest choice whose costs come to at most so much; None where there is none."""
        fits = np.flatnonzero(self._best <= cost)
        return self.within(self.least + (int(fits[0]) + 0.5) * self._step) if len(fits) else None


def _useful(options: Sequence[LayerOption]) -> list[LayerOption]:
    """Without those that take as much as another one or more, and cost as much or more."""
    kept: list[LayerOption] = []
    finite = [option for option in options if np.isfinite(option.cost)]
    for option in sorted(finite or options, key=lambda one: (one.size, one.cost)):
        if not kept or option.cost < kept[-1].cost:
            kept.append(option)
    return kept
