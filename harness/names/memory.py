"""What the process of a stage takes of memory, as an estimate.

In: sizes of a model and of what it is run on. Out: MB.
"""

from __future__ import annotations

from dataclasses import dataclass

_SHORT = 256  # positions of the KV cache and of an input with which memory was measured


@dataclass(frozen=True)
class Memory:
    """What a stage's process takes beside what all share, in MB: of the model's float32 weights, and in any case.

    Past `_SHORT` positions also: caches, times what its KV cache grows by; logits, times those of the longest input in
    float32.
    """

    weights: float
    fixed: float
    caches: float = 0
    logits: float = 0

    def mb(self, weights: float, long: Long | None = None) -> float:
        """weights: those of the model in float32, in MB."""
        long = long or Long()
        return self.weights * weights + self.fixed + self.caches * long.cache + self.logits * long.logits


@dataclass(frozen=True)
class Long:
    """MB that a long KV cache and the float32 logits of a long input take past `_SHORT` positions."""

    cache: float = 0
    logits: float = 0

    @classmethod
    def of(cls, slots: int, row: int, length: int, vocab: int) -> Long:
        """row: numbers that a position takes in the KV cache."""
        return cls(max(0, slots - _SHORT) * row * 4 / 1e6, max(0, length - _SHORT) * vocab * 4 / 1e6)
