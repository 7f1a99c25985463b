"""What each decode step came to. In: nothing. Out: parts of a record."""

from __future__ import annotations

from pydantic import Field, model_validator

from harness.record.part import Part


class DecodeSteps(Part):
    """The decode steps of one input on one hop, a value for each step; only of inputs with more than one step."""

    hop: str
    input: str
    positions: list[int]
    """Where each step is in the input."""
    logits: list[float | None] = Field(default_factory=list)
    """Excess of the logits; none where they were not compared."""
    limit: float | None = None
    """Of the logits' excess at a single position."""
    worst: list[float | None]
    """The excess of the tap that comes nearest to its limit at the step, or goes furthest past it."""
    limits: list[float | None]
    """The limit of that tap at a single position."""
    taps: list[str]
    """That tap."""
    kl: list[float | None] = Field(default_factory=list)
    """KL of the logits in nats; none where they were not compared."""

    @model_validator(mode="after")
    def _adds_up(self) -> DecodeSteps:
        lengths = {len(self.positions), len(self.worst), len(self.limits), len(self.taps)}
        lengths |= {len(each) for each in (self.logits, self.kl) if each}
        if len(lengths) > 1:
            raise ValueError(f"decode steps of {self.hop} on {self.input}: lists of {sorted(lengths)} steps")
        return self

    @property
    def first_over(self) -> int | None:
        """The first step at which a tap is over its limit, from 1; none where no tap is at any."""
        return next((i for i, used in enumerate(self.used, 1) if not used <= 1), None)

    @property
    def used(self) -> list[float]:
        """The share of its limit that the worst tap of each step uses up; what is not a number is infinite."""
        pairs = zip(self.worst, self.limits, strict=True)
        return [float("inf") if worst is None else worst / (limit or 1.0) for worst, limit in pairs]
