"""The conversion gate: green means that every hop asked for holds on every default input, or fails exactly as a known
upstream defect says.

pytest suites/                                 the default plan, suites/plan.py
pytest suites/ --model tiny_llama              one of them; may be repeated
pytest suites/ --model path/to/my_model.py     a model that is not registered
pytest suites/ --miniature -n 2                every kind of model as a miniature, all hops
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from suites.conftest import Runs
    from suites.plan import Entry


def test_laws(entry: Entry, runs: Runs, record_property: Callable[[str, object], None]) -> None:
    """What must hold with no reference, of every stage of the run."""
    gated = runs.of(entry)
    for name, value in gated.properties():
        record_property(name, value)
    problem = gated.law_problem()
    if problem:
        pytest.fail(problem, pytrace=False)


def test_parity(entry: Entry, hop: str, item: str, runs: Runs, record_property: Callable[[str, object], None]) -> None:
    gated = runs.of(entry)
    for name, value in gated.properties():
        record_property(name, value)
    problem = gated.problem(hop, item)
    if problem:
        pytest.fail(problem, pytrace=False)
