"""What one input shows of the laws of stages. In: what they left among the traces. Out: `InputJudgement`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.fuzz.judging import Failure, InputJudgement, Nearest
from harness.laws.judging import LawJudge
from harness.record.laws import LawResult


def judge_laws(judge: LawJudge, stages: Sequence[str], item: str) -> InputJudgement:
    """The first law that each stage breaks, in the order of the stages. What could not be checked counts as broken."""
    results = [judge.judged(stage, item) for stage in stages]
    firsts = [next((one for one in laws if one.verdict in ("broken", "not run")), None) for laws in results]
    faults = tuple(_failure(one) for one in firsts if one is not None)
    nearest = max((_nearest(one) for laws in results for one in laws), key=lambda near: near.share, default=Nearest())
    return InputJudgement(faults, nearest)


def _failure(one: LawResult) -> Failure:
    why = one.why if one.verdict == "broken" else f"it could not be checked: {one.why}"
    return Failure(one.stage, one.law, why, position=-1 if one.position is None else one.position)


def _nearest(one: LawResult) -> Nearest:
    if one.figure is None or one.limit is None:
        return Nearest(0.0, "no bit differs")
    share = math.inf if math.isnan(one.figure) else one.figure / one.limit
    return Nearest(share, f"{one.figure:.3g} of {one.limit:g} at {one.tap} ({one.law} of {one.stage})")
