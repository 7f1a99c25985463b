"""What an outcome of the bench has to be: passed, or failed at one hop and one tap; and lines to check figures by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from harness.bench.outcome import Outcome


def passes(outcome: Outcome) -> bool:
    return outcome.fault is None and set(outcome.verdicts.values()) == {"pass"}


def report(what: str, outcomes: Iterable[Outcome], columns: Sequence[str] = ("excess", "position_excess")) -> None:
    """One line a hop and kind of figure: the largest value, where it was, and the median of the runs' largest."""
    outcomes = list(outcomes)
    for hop in outcomes[0].hops:
        for column in columns:
            worst = []
            for outcome in outcomes:
                rows = outcome.frame[(outcome.frame["hop"] == hop) & (outcome.frame["verdict"] != "missing")]
                row = rows.loc[rows[column].fillna(math.inf).idxmax()]
                worst.append((float(row[column]), f"{row['tap']} of '{row['input']}'"))
            worst.sort()
            median = worst[len(worst) // 2][0]
            print(f"clean: {what}, {hop}, {column}: {worst[-1][0]:.2f} at {worst[-1][1]}; median of runs {median:.2f}")


def show(what: str, outcome: Outcome) -> None:
    """For the table of faults: `python -m pytest tests/faults/test_sees_*.py -s -q | grep fault:`"""
    fault = outcome.fault
    where = f"{fault.hop} at {fault.tap}, excess {fault.excess:.3g}" if fault else "not seen"
    print(f"fault: {what}: {where}")


def assert_first_fault(what: str, outcome: Outcome, hop: str, tap: str, verdicts: str | None = None) -> None:
    """verdicts: of the three hops in the order of the pipeline, e.g. "pff"."""
    show(what, outcome)
    assert outcome.fault is not None, f"{what} was not seen"
    assert (outcome.fault.hop, outcome.fault.tap) == (hop, tap)
    if verdicts:
        assert "".join(verdict[0] for verdict in outcome.verdicts.values()) == verdicts
