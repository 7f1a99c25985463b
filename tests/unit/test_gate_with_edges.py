"""An edge of the context has no test of its own in the gate, and turns those of its hop red where it does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from record_factory import make_run

from suites.conftest import Gated


def gated(**changes: Any) -> tuple[Gated, str, str]:
    """A run that passes, with one case more: of an edge. Also the hop and an input that has a test of its own."""
    record, _ = make_run("pass")
    case = record.cases[0]
    edge = case.model_copy(update={"input": "edge-full", **changes})
    whole = record.model_copy(update={"cases": [*record.cases, edge]})
    return Gated(whole, Path("report.html")), case.hop, case.input


@pytest.mark.parametrize("verdict", ["fail", "missing"])
def test_an_edge_that_does_not_hold_fails_every_case_of_its_hop(verdict: str) -> None:
    found, hop, item = gated(verdict=verdict, message="first failing tap logits, excess 9 > 4")
    assert "first failing tap logits" in found.problem(hop, item)
    other = next(case.hop for case in found.record.cases if case.hop != hop) if found.record else ""
    assert found.problem(other, item) == ""


def test_an_edge_that_holds_fails_nothing() -> None:
    found, hop, item = gated()
    assert found.problem(hop, item) == ""
