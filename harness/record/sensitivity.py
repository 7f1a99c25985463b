"""Which tensors a recipe costs most at. In: nothing. Out: parts of a record."""

from __future__ import annotations

from pydantic import Field

from harness.record.part import Number, Part


class TensorSensitivity(Part):
    """A tensor of the model with the numbers of a quantised file, and as it was."""

    tensor: str
    """The tap that it makes; both, `embed, logits`, for one that is embedding and head."""
    layer: str
    """The layer whose weight it is, or is a part of: queries, keys and values of a fused projection are one layer."""
    size: int
    """How many numbers."""
    local_error: float | None
    """Of the layer's output on the float model's own inputs, as a share of the norm of the output."""
    inputs_share: Number
    """The share of that squared error that comes from the layer's input, which is quantised too; 0 where it is not."""
    outlier_share: Number
    """The share of that squared error that comes from the 1 % of input channels that give most of it."""
    kl: float | None
    """Mean KL in nats of the recipe with this tensor alone put back to float."""
    gain: float | None
    """By how much that is less than the recipe's own."""
    why: str = ""
    """What makes it cost, one of `harness/names/codes.py`; empty where nothing stands out."""


class Sensitivity(Part):
    """All tensors of a recipe, each put back alone."""

    positions: int
    """How many positions of the inputs it was measured on."""
    kl: float | None
    """Mean KL in nats of the recipe on them."""
    tensors: list[TensorSensitivity] = Field(default_factory=list)
    """In execution order."""


class LayerAlone(Part):
    """A layer that alone has the numbers of a quantised file, in a float model."""

    layer: str
    size: int
    """How many numbers."""
    kl: float | None
    """Mean KL in nats."""


class AloneCosts(Part):
    """What each layer of a recipe costs alone."""

    positions: int
    kl: float | None
    """Of the float model against itself: 0."""
    layers: list[LayerAlone]
    """In execution order; one that is embedding and head is called `embed`."""
