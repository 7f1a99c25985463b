"""How fast each stage is. In: nothing. Out: parts of a record."""

from __future__ import annotations

from pydantic import Field

from harness.record.part import Number, Part

UNSTEADY = 0.1  # a spread from here on, and so many busy cores, are worth a word


class Measured(Part):
    """A figure of several repeats."""

    median: Number
    low: Number
    """The lower quartile."""
    high: Number
    """The upper quartile."""

    @property
    def spread(self) -> float:
        """From the lower to the upper quartile, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


class StageSpeed(Part):
    """One stage, in a process of its own with nothing of the run beside it."""

    stage: str
    prefill: Measured | None = None
    """Tokens per second of a prefill."""
    decode: Measured | None = None
    """Tokens per second, decoded one by one after it."""
    first_token: Measured | None = None
    """Seconds of that prefill and the first decode."""
    load: float | None = None
    """Seconds from nothing to a model that can be called, once."""
    first_calls: float | None = None
    """Seconds of the first prefill and the first decode, which are not repeats: weights may be packed there."""
    peak_mb: float | None = None
    """Largest resident set of its process, in 10^6 bytes."""
    before_mb: float | None = None
    """The same before it loaded the model: Python and what it had imported."""
    file_mb: float | None = None
    """Size of its flatbuffer in 10^6 bytes; none where it runs none."""
    repeats: int = 0
    """Prompts that were measured."""
    decoded: int = 0
    """Tokens that were decoded after each."""
    others: float | None = None
    """Cores that everything else on the machine kept busy meanwhile, on average; none where that cannot be told."""
    why_not: str = ""
    """Why it was not measured; empty where it was."""

    @property
    def is_unsteady(self) -> bool:
        """Whether the figures say little: they are far apart, or the machine was busy with something else."""
        figures = [one for one in (self.prefill, self.decode, self.first_token) if one is not None]
        return any(one.spread > UNSTEADY for one in figures) or (self.others or 0.0) > UNSTEADY


class SpeedTable(Part):
    """How fast the stages are; no verdict rests on it."""

    threads: int
    """Given to every stage."""
    prompt: int
    """Tokens of the prompt, as many as the largest prefill signature takes."""
    stages: list[StageSpeed] = Field(default_factory=list)
    """In the order of the pipeline. The oracle and the fake-quantised stages, which nobody would run, are not among
    them."""
