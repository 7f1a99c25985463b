"""What a search for a recipe came to. In: nothing. Out: the parts of `search.json`."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from harness.record.part import Number, Part


class RecipeCandidate(Part):
    """A recipe that was applied, and its file that was run."""

    name: str
    uniform: bool
    """Whether it is one that was asked for, and not a mixture."""
    mb: Number
    """Size of the file in 10^6 bytes."""
    kl_mean: float | None
    """KL(float model || file on XNNPACK) in nats, the mean over positions. None where it is not finite."""
    kl_p99: float | None
    """The same, the 99th percentile of positions."""
    flips: int
    """Positions where the most likely token differs."""
    predicted_kl: float | None = None
    """What the costs of its tensors come to."""
    layers: dict[str, int] = Field(default_factory=dict)
    """How many layers each recipe has; `none` is float32."""
    recipes: dict[str, str] = Field(default_factory=dict)
    """The recipe of each layer. One that makes several taps, as queries, keys and values, is called by the first."""
    refused: str = ""
    """Why it cannot be taken, in words: the audit of its file found it wrong."""
    rules: list[dict[str, Any]] = Field(default_factory=list)
    """As ai-edge-quantizer has them."""


class LayerCost(Part):
    """A layer under one recipe, alone in a float model."""

    layer: str
    recipe: str
    bytes: Number
    kl: float | None
    """Mean KL in nats."""


class RecipeSearch(Part):
    """`search.json`."""

    model: str
    run_id: str
    max_kl: float | None = None
    """The budget, in nats of mean KL; none where the size is the budget."""
    max_mb: float | None = None
    """The budget, in 10^6 bytes."""
    winner: str | None = None
    """The smallest file that keeps `max_kl`, or the one of the least KL that keeps `max_mb`; none where none does."""
    float32_mb: Number
    least_mb: Number = 0.0
    """Of the smallest file that these recipes can make, as predicted."""
    positions: int
    """Of all inputs; those on which KL was measured."""
    cost_positions: int
    """Those on which the costs of single layers were."""
    candidates: list[RecipeCandidate]
    """By size."""
    costs: list[LayerCost] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)
    seconds: Number = 0.0

    @property
    def taken(self) -> RecipeCandidate | None:
        """The winner."""
        return next((one for one in self.candidates if one.name == self.winner), None)

    def keeps(self, candidate: RecipeCandidate) -> bool:
        """Whether a candidate is within the budget."""
        return not candidate.refused and within_budget(self.max_kl, self.max_mb, candidate.kl_mean, candidate.mb)


def within_budget(max_kl: float | None, max_mb: float | None, kl_mean: float | None, mb: float) -> bool:
    """Whether a file keeps the one budget that is given. What has no finite KL keeps none."""
    if kl_mean is None or not math.isfinite(kl_mean):
        return False
    return kl_mean <= max_kl if max_kl is not None else max_mb is not None and mb <= max_mb
