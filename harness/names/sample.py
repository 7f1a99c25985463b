"""The positions of a long input that are kept of most taps. In: nothing. Out: `Sample`."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from harness.names.taps import EMBED, FINAL_NORM, LOGITS, split_tap

WHOLE_UP_TO = (
    1024  # positions of an input of which everything is kept: SmolLM2's probabilities then take 1.1 GB a stage
)

# Of a long input these are kept at every position: what later positions are computed from, what each block ends in, and
# what is in no block.
KEPT_WHOLE = frozenset({EMBED, "attn.k", "attn.v", "attn.k_rope", "cache.k", "cache.v", "out", FINAL_NORM, LOGITS})


@dataclass(frozen=True)
class Sample:
    """Which positions of a long input are kept, in order. every: of every tap; else not of those in `KEPT_WHOLE`."""

    positions: tuple[int, ...]
    every: bool = False

    def holds(self, tap: str) -> bool:
        """Whether a tap is kept at these positions alone."""
        return self.every or split_tap(tap)[1] not in KEPT_WHOLE

    def within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The stretches `[start, stop)` of its positions from `start` to before `stop`."""
        found: list[tuple[int, int]] = []
        for position in self.positions[bisect_left(self.positions, start) : bisect_left(self.positions, stop)]:
            if found and found[-1][1] == position:
                found[-1] = found[-1][0], position + 1
            else:
                found.append((position, position + 1))
        return found
