"""What each hop and each input came to. In: nothing. Out: parts of a record."""

from __future__ import annotations

from pydantic import Field, model_validator

from harness.names.codes import ReasonCode
from harness.names.stages import Hop
from harness.record.part import Number, Part, TapVerdict, Verdict
from harness.record.text import TextFigures


class Worst(Part):
    """The tap that comes nearest to its limit, or goes furthest past it."""

    tap: str
    input: str
    excess: float | None
    max_abs_err: float | None
    limit: float | None = None


class LowestSnr(Part):
    """Where the kernels of one quantised file agree least."""

    tap: str
    input: str
    snr_db: float | None
    """Signal to noise in dB; none where they agree exactly, or hold NaN."""


class Logits(Part):
    """Figures of the logits over all positions of all inputs."""

    max_abs_err: float | None
    rel_l2: float | None
    kl_max: float | None
    """KL(reference || candidate) in nats: the largest of a position."""
    kl_mean: float | None
    """The same in the mean over positions."""
    kl_p50: float | None = None
    """What half of the positions do not exceed: the nearest rank. None in records of older versions."""
    kl_p95: float | None = None
    """What 95 % of them do not; of fewer than 20 the largest."""
    kl_p99: float | None = None
    """What 99 % of them do not; of fewer than 100 the largest."""
    top1_agreement: float | None
    """Share of positions with the same most likely token."""
    flips: int
    """Positions where the most likely token differs."""
    flips_above_noise: int
    """Those of them where float32 alone does not explain it."""
    positions: int = 0
    """How many positions this covers."""
    answer_flips: int | None = None
    """Positions of text where exactly one side has the token that follows as its most likely one; none without text."""
    answers: int = 0
    """At how many positions the token that follows is known."""
    perplexity_ratio: float | None = None
    """Perplexity of the candidate on the measured text over that of the reference; none where none was measured."""
    mb: float | None = None
    """Of a recipe's price: size of its file in 10^6 bytes."""


class MissingTap(Part):
    """A tap that was not compared on every input."""

    tap: str
    why: str
    """In words."""
    reason: str = ""
    """The listed one, see `harness/names/coverage.py`; empty where there is none, and the hop fails for it."""


class HopResult(Part):
    """Two stages compared: `to` judged against `from`."""

    from_: str = Field(alias="from")
    to: str
    verdict: Verdict
    taps_compared: int
    """On every input."""
    taps_missing: int
    coverage: Number
    """Taps compared over all taps."""
    coverage_required: Number = 0.0
    worst: Worst | None = None
    worst_position: Worst | None = None
    """The same for single token positions."""
    lowest_snr: LowestSnr | None = None
    """Of a hop between kernels, in place of the excesses."""
    logits: Logits | None = None
    text: TextFigures | None = None
    """The same on the text that is measured; none where it was not."""
    first_failing_tap: str | None = None
    """In execution order."""
    missing: list[MissingTap] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)
    """Why it failed, in words; empty when it passed."""
    reason_codes: list[str] = Field(default_factory=list)
    """The code of each reason, one of `harness/names/codes.py`; empty in records of older versions."""
    blocked_by: str = ""
    """The stage for want of which nothing could be compared."""

    @property
    def name(self) -> str:
        return f"{self.from_}->{self.to}"

    def reasons_of(self, code: ReasonCode) -> list[str]:
        """Those of the reasons, in words, that have a code."""
        return [said for known, said in zip(self.reason_codes, self.reasons, strict=False) if known == code]

    @property
    def hop(self) -> Hop:
        return Hop.between(self.from_, self.to)

    @model_validator(mode="after")
    def _adds_up(self) -> HopResult:
        total = self.taps_compared + self.taps_missing
        if total and abs(self.coverage - self.taps_compared / total) > 1e-9:
            raise ValueError(f"hop {self.name}: coverage {self.coverage} is not {self.taps_compared}/{total}")
        if self.verdict == "fail" and not self.reasons:
            raise ValueError(f"hop {self.name} fails without a reason")
        if self.reason_codes and len(self.reason_codes) != len(self.reasons):
            raise ValueError(f"hop {self.name} has {len(self.reasons)} reasons and {len(self.reason_codes)} codes")
        if self.verdict == "pass" and (self.reasons or self.first_failing_tap):
            raise ValueError(f"hop {self.name} passes although {self.reasons or self.first_failing_tap}")
        return self


class Case(Part):
    """One input on one hop: a line of the gate and of junit.xml."""

    input: str
    hop: str
    verdict: TapVerdict
    first_failing_tap: str | None = None
    excess: float | None = None
    """Of the first failing tap; of a passing case the worst of all taps."""
    position_excess: float | None = None
    """The same at the worst single position."""
    message: str = ""
    """One line for whoever reads the gate."""
