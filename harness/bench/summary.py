"""What a benchmark comes to: shares of its results.

In: results and clean models. Out: `Share`, by name. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.bench.mistake import KINDS
from harness.bench.result import EVERY_OTHER, Clean, Report, Result

NAMED = 3  # hypotheses that a diagnosis may name


@dataclass(frozen=True)
class Share:
    count: int
    of: int

    def __str__(self) -> str:
        return f"{self.count} of {self.of}" if self.of else "-"

    @property
    def percent(self) -> str:
        return f"{100 * self.count / self.of:.1f} %" if self.of else "-"


@dataclass(frozen=True)
class Summary:
    """Of some faults. detected: by numbers or by an audit. Hop, tap and cause are of those that numbers saw.

    below_noise: faults smaller than what float32 costs, and how many of them an audit saw; the rest is about the
    others.
    Causes are of faults that a hypothesis, or of a quantised file a finding, is there for.
    others: of the faults that each was asked about.
    """

    faults: int
    below_noise: Share
    detected: Share
    hop: Share
    tap: Share
    cause_first: Share
    cause_named: Share
    owner: Share
    others: dict[str, Share]


def summary(results: Sequence[Result]) -> Summary:
    below = [result for result in results if result.below_noise]
    visible = [result for result in results if not result.below_noise]
    seen = [result for result in visible if result.seen]
    caused = [result for result in seen if result.expected_causes]
    ranks = [result.cause_rank for result in caused]
    return Summary(
        faults=len(results),
        below_noise=Share(sum(bool(result.audits) for result in below), len(below)),
        detected=Share(sum(result.detected for result in visible), len(visible)),
        hop=Share(sum(result.hop_right for result in seen), len(seen)),
        tap=Share(sum(result.tap_right for result in seen), len(seen)),
        cause_first=Share(sum(rank == 1 for rank in ranks), len(caused)),
        cause_named=Share(sum(rank is not None and rank <= NAMED for rank in ranks), len(caused)),
        owner=Share(sum(result.owner_right for result in seen), len(seen)),
        others=_complaints(visible),
    )


def _complaints(found: Sequence[Result] | Sequence[Clean]) -> dict[str, Share]:
    """By check, of those that it was asked about."""
    asked = {name: [one.others[name] for one in found if name in one.others] for name in EVERY_OTHER}
    return {name: Share(sum(answers), len(answers)) for name, answers in asked.items()}


def by_kind(report: Report) -> dict[str, Summary]:
    found = {kind: [result for result in report.results if result.kind == kind] for kind in KINDS}
    return {kind: summary(results) for kind, results in found.items() if results}


def false_alarms(report: Report) -> tuple[Share, dict[str, Share]]:
    """(failing comparisons of clean models, and of each other check the models at a seed on which it complains)"""
    clean = report.clean
    alarms = Share(sum(len(one.alarms) for one in clean), sum(one.comparisons for one in clean))
    return alarms, _complaints(clean)
