"""What came of a fault and of a clean model: the rows of the benchmark.

In: nothing. Out: `Result`, `Clean` and `Report`, which cross process borders as JSON.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

OTHERS = {
    "verifier": "litert-torch's verifier",
    "allclose": "logits allclose at 1e-3",
    "top1": "top-1 agreement",
}
# On quantised files, which are not those checks' to tell: none of them knows what a recipe costs.
QUANTISED_OTHERS = {
    "quantised_allclose": "logits allclose at 0.5",
    "quantised_top1": "top-1 agreement of 90 %",
    "snr": "SNR per layer of 20 dB",
    "validate": "ai-edge-quantizer's validate()",
}
EVERY_OTHER = OTHERS | QUANTISED_OTHERS


class Result(BaseModel):
    """One fault.

    hop, tap, owner: of the first fault; empty where the numbers saw nothing. Of a quantised file the audit of the
    recipe says them, on the hop of the price. diagnosis: hypotheses, best first, or codes of that audit's findings.
    accused: who else is charged with a fault, of quantised files. only_in: the signatures that alone have it.
    audits: those that saw the fault. error: why the fault could not be made or run, which is not a detection.
    effect: the fault computed in float64, its largest error at any tap over the float32 noise floor there; none where
    it was not asked for. others: which other checks saw it.
    """

    id: str
    kind: str
    model: str
    what: str
    expected_hop: str
    expected_taps: list[str]
    expected_causes: list[str]
    expected_owners: list[str]
    expected_only_in: str = ""
    hop: str = ""
    tap: str = ""
    owner: str = ""
    only_in: str = ""
    excess: float | None = None
    local_excess: float | None = None
    diagnosis: list[str] = Field(default_factory=list)
    audits: list[str] = Field(default_factory=list)
    accused: list[str] = Field(default_factory=list)
    error: str = ""
    effect: float | None = None
    others: dict[str, bool] = Field(default_factory=dict)
    seconds: float = 0.0

    @property
    def seen(self) -> bool:
        """By the numbers; of a quantised file, whose price is not a fault, by reading it."""
        return bool(self.hop)

    @property
    def detected(self) -> bool:
        return self.seen or bool(self.audits)

    @property
    def below_noise(self) -> bool:
        """Not seen by the numbers, and computed exactly it is smaller than what float32 costs, at every tap."""
        return not self.seen and self.effect is not None and self.effect < 1

    @property
    def hop_right(self) -> bool:
        return self.hop == self.expected_hop and not self.accused

    @property
    def tap_right(self) -> bool:
        return self.hop_right and self.tap in self.expected_taps

    @property
    def owner_right(self) -> bool:
        return self.owner in self.expected_owners

    @property
    def sequence_right(self) -> bool:
        """Whether the signatures that alone have the fault are told, and none where all have it."""
        return not self.seen or self.only_in == self.expected_only_in

    @property
    def cause_rank(self) -> int | None:
        """Place of the first right cause among those named, from 1; none where none was right."""
        places = [place for place, name in enumerate(self.diagnosis, 1) if name in self.expected_causes]
        return min(places, default=None)


class Clean(BaseModel):
    """A model that is right, at one seed. comparisons: inputs times hops. alarms: those that failed, in words.

    others: which other checks raised an alarm. recipe: of a quantised file; empty for the float32 one.
    """

    model: str
    seed: int
    recipe: str = ""
    comparisons: int
    taps: int
    alarms: list[str] = Field(default_factory=list)
    others: dict[str, bool] = Field(default_factory=dict)
    seconds: float = 0.0


class Report(BaseModel):
    """A whole benchmark. environment: versions of packages, and the machine."""

    results: list[Result] = Field(default_factory=list)
    clean: list[Clean] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def alarms(self) -> list[str]:
        return [alarm for one in self.clean for alarm in one.alarms]

    @property
    def missed(self) -> list[Result]:
        return [result for result in self.results if not result.detected]
