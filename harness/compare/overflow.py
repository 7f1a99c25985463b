"""What would overflow in float16, of a model that agrees in float32. In: the rows of the taps. Out: findings that warn.

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
_NORMED = ("residual", "out")  # the stream that a block's norms, the next block's and the final one read


@dataclass(frozen=True)
class _Reach:
    """How far a tap gets on the input where it gets furthest."""

    tap: str
    magnitude: float
    input: str


def overflow_findings(rows: Iterable[TapRow], rms_norms: bool) -> list[Finding]:
    """At most two warnings: values that float16 cannot hold, and inputs of RMS norms whose squares it cannot.

    rms_norms: whether the norms of the model's blocks are RMS norms, which square what they read.
    """
    reached = _reached(rows)
    beyond = [one for one in reached if one.magnitude >= FLOAT16_OVERFLOWS]
    squares = [one for one in reached if split_tap(one.tap)[1] in _NORMED and one.magnitude**2 >= FLOAT16_OVERFLOWS]
    said = [(FindingCode.VALUE_BEYOND_FLOAT16, beyond, _overflows)]
    said += [(FindingCode.SQUARE_BEYOND_FLOAT16, squares, _squares)] if rms_norms else []
    return [_finding(code, found, words) for code, found, words in said if found]


def _reached(rows: Iterable[TapRow]) -> list[_Reach]:
    """Every tap at its furthest, the furthest first. Infinity is not a range: the tap fails for it."""
    most: dict[str, _Reach] = {}
    for row in rows:
        magnitude = max(abs(row.value_min), abs(row.value_max))
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
