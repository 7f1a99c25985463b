"""What a failed `assert_parity` says.

In: results and both sides. Out: lines: how far apart, where, what agrees, and a guess at why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.compare.rows import POSITION_LIMIT
from harness.testing.guesses import fitted_guesses, simple_guesses
from harness.testing.interventions import guesses_by_trying
from harness.testing.judging import OutputResult, Reach
from harness.testing.running import Sides, active_dropout


def message(results: Sequence[OutputResult], absent: Sequence[str], extra: Sequence[str], sides: Sides) -> str:
    """Shapes, types and what is not finite stand first; of numbers the worst output is told in full."""
    failed = [result for result in results if not result.passed and not result.empty]
    lines = [f"the candidate lacks {_name(name)}" for name in absent]
    lines += [f"the candidate gives one more, {_name(name)}" for name in extra]
    lines += [f"{_name(result.name)}: {result.problem}" for result in failed if result.problem]
    measured = sorted((one for one in failed if not one.problem), key=_size, reverse=True)
    for result in measured[:1]:
        lines += _told(result)
    lines += [f"{_name(one.name)}: excess {_number(one.excess)} of {_number(one.limit)}" for one in measured[1:]]
    lines += [f"{_name(one.name)}: nothing to compare, {one.problem}" for one in results if one.empty]
    agree, of = sum(result.passed for result in results), len(results) + len(absent)
    if agree:
        lines.append(f"{agree} of {of} outputs agree")
    lines += [f"likely: {words}" for words in _reasons(measured or failed, sides)]
    return "\n".join(["the candidate is not the reference", *(f"  {line}" for line in lines)])


def _reasons(failed: Sequence[OutputResult], sides: Sides) -> list[str]:
    """What explains all of the error of the worst output, simplest first."""
    dropout = active_dropout(sides)
    if dropout:
        return [f"{dropout}; call .eval() on both"]
    if not failed or failed[0].name not in sides.made:
        return []
    name = failed[0].name
    reach = Reach(sides.made[name], sides.truth.exact[name], [run[name] for run in sides.truth.samples], sides.dtype)
    before = reach.before()
    if before is not None and before.passes():
        return []  # another type, the same numbers
    found = simple_guesses(reach) or guesses_by_trying(reach, name, sides)
    return found or fitted_guesses(reach, sides.given_arrays()) or reach.whereabouts()


def _told(result: OutputResult) -> list[str]:
    where = f"at {list(result.index)} " if result.index else ""
    return [
        f"{_name(result.name)}: excess {_number(result.excess)} of {_number(result.limit)}, and in the worst row "
        f"{_number(result.worst)} of {POSITION_LIMIT:g}, in units of what float32 costs the reference there",
        f"worst {where}the candidate gives {result.values[0]!r}, and the reference in float64 {result.values[1]!r}",
        f"the error of that row is {result.relative:.2e} of its norm, the noise floor {result.floor:.2e}",
    ]


def _size(result: OutputResult) -> float:
    return math.inf if math.isnan(result.excess) else result.excess


def _name(name: str) -> str:
    return f"output {name}" if name else "the output"


def _number(value: float) -> str:
    return f"{value:.3g}"
