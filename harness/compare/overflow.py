"""What would overflow or lose its digits in float16, of a model that agrees in float32.

In: the rows of the taps. Out: findings that warn.

Accelerators of phones often compute in float16. Nothing here fails a run: a float32 file on a processor is right.
Values are the oracle's at the taps; what lies between two taps is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.compare.value_range import FLOAT16_OVERFLOWS, short
from harness.names.codes import FindingCode
from harness.names.taps import split_tap
from harness.record.record import Finding
from harness.record.tap_row import TapRow

_SHOWN = 4
_MOST = 0.5  # share of a tap's values that are subnormal in float16 from which on it is said
_PROBABILITIES = "attn.probs"  # most are near 0 in any long text, and what is lost is a share of 1 that nobody sees
_NORMED = ("residual", "out")  # the stream that a block's norms, the next block's and the final one read


@dataclass(frozen=True)
class _Reach:
    """How far a tap gets on the input where it gets furthest, or the share of its values where that is largest."""

    tap: str
    magnitude: float
    input: str


def overflow_findings(rows: Iterable[TapRow], rms_norms: bool) -> list[Finding]:
    """At most three warnings: values that float16 cannot hold, inputs of RMS norms whose squares it cannot, and taps
    most of whose values are so small that it keeps few of their digits.

    rms_norms: whether the norms of the model's blocks are RMS norms, which square what they read.
    """
    rows = list(rows)
    reached = _most(rows, lambda row: max(abs(row.value_min), abs(row.value_max)))
    small = [one for one in _most(rows, lambda row: row.subnormal_share) if one.magnitude >= _MOST]
    beyond = [one for one in reached if one.magnitude >= FLOAT16_OVERFLOWS]
    squares = [one for one in reached if split_tap(one.tap)[1] in _NORMED and one.magnitude**2 >= FLOAT16_OVERFLOWS]
    said = [(FindingCode.VALUE_BEYOND_FLOAT16, beyond, _overflows)]
    said += [(FindingCode.SQUARE_BEYOND_FLOAT16, squares, _squares)] if rms_norms else []
    small = [one for one in small if split_tap(one.tap)[1] != _PROBABILITIES]
    said += [(FindingCode.VALUE_SUBNORMAL_FLOAT16, small, _subnormal)]
    return [_finding(code, found, words) for code, found, words in said if found]


def _most(rows: Iterable[TapRow], size: Callable[[TapRow], float]) -> list[_Reach]:
    """Every tap at its furthest, the furthest first. Infinity is not a range: the tap fails for it."""
    most: dict[str, _Reach] = {}
    for row in rows:
        magnitude = size(row)
        if math.isfinite(magnitude) and (row.tap not in most or magnitude > most[row.tap].magnitude):
            most[row.tap] = _Reach(row.tap, magnitude, row.input)
    return sorted(most.values(), key=lambda one: -one.magnitude)


def _finding(code: FindingCode, found: list[_Reach], words: Callable[[_Reach], str]) -> Finding:
    first = found[0]
    others = _grouped([one.tap for one in found[1:]])
    also = f"; also {others}" if others else ""
    blocks = sorted({block for one in found if (block := split_tap(one.tap)[0]) is not None})
    what = f"{words(first)}{also}"
    return Finding(kind="numeric", code=code, severity="warning", what=what, blocks=blocks)


def _overflows(one: _Reach) -> str:
    return (
        f"{one.tap} reaches {short(one.magnitude)} (input {one.input}): float16 arithmetic overflows here, past 65,504"
    )


def _squares(one: _Reach) -> str:
    return (
        f"{one.tap}, the input of an RMS norm, reaches {short(one.magnitude)} (input {one.input}): its square, "
        f"{short(one.magnitude**2)}, overflows float16 unless the norm is computed in float32"
    )


def _subnormal(one: _Reach) -> str:
    share = f"{100 * one.magnitude:.0f} % of the values of {one.tap} (input {one.input})"
    return (
        f"{share} are below 6.1e-5 and not 0: float16 keeps few of their digits, and hardware that flushes subnormal "
        "numbers makes them 0"
    )


def _grouped(taps: list[str]) -> str:
    """`mlp.out (blocks 3 to 9, 12), logits`: each point once, that of the first of `taps` first."""
    points: dict[str, list[int]] = {}
    for tap in taps:
        block, point = split_tap(tap)
        points.setdefault(point, []).extend([] if block is None else [block])
    said = [f"{point} ({_blocks(sorted(blocks))})" if blocks else point for point, blocks in points.items()]
    more = f" and {len(said) - _SHOWN} more kinds of taps" if len(said) > _SHOWN else ""
    return ", ".join(said[:_SHOWN]) + more


def _blocks(blocks: list[int]) -> str:
    """Ascending numbers in words: `blocks 3 to 9, 12`."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    said = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"{'block' if len(blocks) == 1 else 'blocks'} {', '.join(said)}"
