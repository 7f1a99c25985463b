"""What the text that perplexity is measured on came to. In: nothing. Out: parts of a record."""

from __future__ import annotations

from pydantic import Field

from harness.record.part import Part


class StagePerplexity(Part):
    """How well one stage predicts the text."""

    stage: str
    nll: float | None
    """In nats per token."""
    perplexity: float | None


class MeasuredText(Part):
    """The text, and each stage that ran it. Where there is none, why."""

    name: str = ""
    """The file's path, or `sample.txt` for the text that ships."""
    sha256: str = ""
    """Of the text."""
    windows: int = 0
    """Stretches that were run one by one, none of which sees another."""
    tokens: int = 0
    """How many are predicted: all but the first of each window."""
    stages: list[StagePerplexity] = Field(default_factory=list)
    """In the order of the pipeline."""
    why_not: str = ""
    """Why there is no text; empty where there is one."""


class TextFigures(Part):
    """How far the two stages of a hop are apart on the text."""

    positions: int
    kl_mean: float | None
    """KL(reference || candidate) in nats, as `Logits` has it."""
    kl_max: float | None
    kl_p50: float | None
    kl_p95: float | None
    kl_p99: float | None
    top1_agreement: float | None
    flips: int
    answer_flips: int
    """Positions where exactly one side has the token that follows as its most likely one."""
    perplexity_ratio: float | None
    """Of the candidate over the reference."""
