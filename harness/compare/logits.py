"""What the logits of a hop come to: divergence by position, flips, and flips that change an answer. Pure.

In: statistics of logits per position (`harness/compare/metrics.py`). Out: figures of an input, and of all inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.compare.metrics import LogitStats
from harness.record.hops import Logits

Array = np.ndarray[Any, Any]
PERCENTILES: Mapping[str, int] = {"kl_p50": 50, "kl_p95": 95, "kl_p99": 99}


@dataclass(frozen=True)
class LogitPositions:
    """What a hop's logits came to at each position of one input; arrays are `[len(positions)]`.

    noise: the largest error of the float32 runs against `oracle`. flips: another token is the most likely one.
    above_noise: flips where the reference's margin is more than twice the noise.
    """

    input: str
    positions: Array
    stats: LogitStats
    noise: Array
    flips: Array
    above_noise: Array


def percentiles(kl: Array) -> dict[str, float]:
    """The divergence that 50, 95 and 99 % of the positions do not exceed: the nearest rank, a value that there is.

    So `kl_p99` of fewer than 100 positions, and `kl_p95` of fewer than 20, is the largest. NaN anywhere makes all NaN.
    kl: `[positions]`, one at least.
    """
    ranked = np.sort(kl)
    if np.isnan(ranked[-1]):  # NaN sorts last
        return dict.fromkeys(PERCENTILES, float("nan"))
    return {name: float(ranked[-(-share * kl.size // 100) - 1]) for name, share in PERCENTILES.items()}


def answer_flips(stats: LogitStats, following: Array) -> Array:
    """Where exactly one of the two sides has the token that follows as its most likely one, `[positions]` of bool.

    following: the token after each position. A change between two wrong tokens changes no answer.
    """
    changed: Array = (stats.top1_reference == following) != (stats.top1_candidate == following)
    return changed


@dataclass
class LogitTally:
    """Logits figures of one hop, gathered over inputs.

    answers: the tokens of each input that comes from text, by id.
    """

    answers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    each: list[LogitPositions] = field(default_factory=list)
    changed: list[Array] = field(default_factory=list)

    @property
    def kl(self) -> list[Array]:
        return [one.stats.kl for one in self.each]

    def add(self, item: str, positions: Array, stats: LogitStats, noise: Array) -> dict[str, float]:
        """Take in one input, at the positions compared; returns its figures as the tolerance rules name them."""
        agree = stats.top1_reference == stats.top1_candidate
        # Both sides may be off by the noise, in opposite directions. Written so that a NaN margin counts.
        above = ~agree & ~(stats.margin_reference <= 2 * noise)
        self.each.append(LogitPositions(item, positions, stats, noise, ~agree, above))
        figures = {
            "kl_max": float(stats.kl.max()),
            "kl_mean": float(stats.kl.mean()),
            **percentiles(stats.kl),
            "flips": float((~agree).sum()),
            "flips_above_noise": float(above.sum()),
            "top1_agreement": float(agree.mean()),
        }
        if item in self.answers:
            tokens = np.asarray(self.answers[item], np.int64)
            known = positions + 1 < tokens.size
            following = tokens[np.minimum(positions + 1, tokens.size - 1)]
            changed = answer_flips(stats, following)[known]
            self.changed.append(changed)
            figures["answer_flips"] = float(changed.sum())
        return figures

    def result(self) -> Logits:
        parts = [one.stats for one in self.each]
        kl, flips = np.concatenate(self.kl), np.concatenate([one.flips for one in self.each])
        error, reference = (
            sum(float(getattr(part, name).sum()) for part in parts) for name in ("squared_error", "squared_reference")
        )
        return Logits(
            max_abs_err=float(np.concatenate([part.max_abs_err for part in parts]).max()),
            rel_l2=float(np.sqrt(error / reference)) if reference else float("nan"),
            kl_max=float(kl.max()),
            kl_mean=float(kl.mean()),
            **percentiles(kl),
            top1_agreement=float((~flips).mean()),
            flips=int(flips.sum()),
            flips_above_noise=int(sum(one.above_noise.sum() for one in self.each)),
            positions=int(kl.size),
            answer_flips=int(sum(part.sum() for part in self.changed)) if self.changed else None,
            answers=sum(part.size for part in self.changed),
        )
