"""What a recipe made of the weights of a model. In: nothing. Out: parts of a record."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.record.part import Number, Part
from harness.record.sensitivity import Sensitivity


class QuantisedLayer(Part):
    """How a quantised file holds the weight of a layer, and how near to it. Errors are shares of the weight's norm."""

    layer: str
    """The tap that the layer makes; the first one where it makes several."""
    tensor: str
    """Its name in the file."""
    grid: str
    """Type and granularity, `int8 channelwise`."""
    bits: int
    """Of one number."""
    size: int
    """How many numbers."""
    error: float | None
    """Of what the file holds."""
    nearest: float | None
    """Of the nearest numbers on the same grid."""
    best: float | None
    """Of the nearest numbers with the best scales of the same kind, told by some of the rows."""
    cosine: float | None
    """Of what the file holds and the weight."""
    saturated: Number = 0.0
    """The share of its whole numbers that are at an end of their type."""

    @property
    def mb(self) -> float:
        """What its numbers take in 10^6 bytes, scales aside."""
        return self.size * self.bits / 8e6


class RecipeResult(Part):
    """A recipe, and the file that it made."""

    name: str
    rules: list[dict[str, Any]] = Field(default_factory=list)
    """As ai-edge-quantizer has them."""
    mb: float | None = None
    """Size of the file in 10^6 bytes."""
    float32_mb: float | None = None
    """Size of the float32 file that it was made of."""
    family: str = ""
    """Told by what the file holds, one of `harness/names/recipe_families.py`; empty where nothing is quantised."""
    layers: list[QuantisedLayer] = Field(default_factory=list)
    """In execution order."""
    sensitivity: Sensitivity | None = None
    """What each tensor costs; none where it was not measured."""
