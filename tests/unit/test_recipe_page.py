"""The page and the lines of a search say what was measured, and name the winner."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from harness.record.recipe_search import LayerCost, RecipeCandidate, RecipeSearch, within_budget
from harness.render.recipe_search import curve_of, headline, page, print_search


def candidate(name: str, mb: float, kl: float | None, **more: object) -> RecipeCandidate:
    fields = {"name": name, "uniform": False, "mb": mb, "kl_mean": kl, "kl_p99": kl, "flips": 3, **more}
    return RecipeCandidate.model_validate(fields)


def search(*candidates: RecipeCandidate, **more: object) -> RecipeSearch:
    fields = {
        "model": "m",
        "run_id": "20260101-000000-0000",
        "max_kl": 0.01,
        "float32_mb": 100.0,
        "positions": 50,
        "cost_positions": 20,
        "candidates": candidates,
        **more,
    }
    return RecipeSearch.model_validate(fields)


FOUND = search(
    candidate("int4", 10.0, 0.5, uniform=True),
    candidate("mixed-1", 15.0, 0.008, layers={"int4": 2, "none": 1}),
    candidate("<b>int8</b>", 20.0, 0.001, uniform=True),
    winner="mixed-1",
    costs=[LayerCost(layer="embed", recipe="int4", bytes=5e5, kl=0.2)],
)


def test_the_headline_names_the_winner_its_size_and_its_price() -> None:
    said = headline(FOUND)
    assert said.startswith("mixed-1 (mixed) keeps a mean KL of 0.01 nats: 15 MB of 100")
    assert "3 of 50 top tokens changed" in said
    none = search(candidate("int4", 10.0, 0.5, uniform=True))
    said = "no recipe of 1 that were measured keeps a mean KL of 0.01 nats: the least was 0.500 nats"
    assert headline(none) == said


def test_what_keeps_a_budget() -> None:
    assert [FOUND.keeps(one) for one in FOUND.candidates] == [False, True, True]
    assert not FOUND.keeps(candidate("refused", 1.0, 1e-5, refused="its file is wrong"))
    assert not FOUND.keeps(candidate("not finite", 1.0, None))
    by_size = search(*FOUND.candidates, max_kl=None, max_mb=12.0)
    assert [by_size.keeps(one) for one in by_size.candidates] == [True, False, False]


def test_the_curve_has_every_candidate_whose_kl_can_be_drawn() -> None:
    curve = curve_of(search(*FOUND.candidates, candidate("exact", 90.0, 0.0), candidate("lost", 1.0, None)))
    assert curve is not None
    assert [point.candidate.name for point in curve.points] == ["int4", "mixed-1", "<b>int8</b>"]
    xs, ys = [point.x for point in curve.points], [point.y for point in curve.points]
    assert xs == sorted(xs)
    assert ys == sorted(ys)  # less KL stands lower
    assert all(curve.left <= x <= curve.right for x in xs)
    assert all(curve.top <= y <= curve.bottom for y in ys)
    assert curve.budget_y is not None
    assert ys[0] < curve.budget_y < ys[2]
    assert curve_of(search(candidate("lost", 1.0, None))) is None


@pytest.mark.parametrize("sizes", [(0.9, 1.5), (78.0, 142.0), (5.0, 5.0), (1000.0, 70000.0)])
def test_the_axis_of_sizes_has_a_few_marks(sizes: tuple[float, float]) -> None:
    curve = curve_of(search(*(candidate(f"c{mb}", mb, 0.1) for mb in sizes)))
    assert curve is not None
    assert 2 <= len(curve.x_ticks) <= 14


def test_the_page_escapes_names_and_has_every_candidate() -> None:
    html = page(FOUND)
    assert "<b>int8</b>" not in html
    assert "&lt;b&gt;int8&lt;/b&gt;" in html
    assert "2 int4, 1 float32" in html
    assert "no recipe of" in page(search(candidate("int4", 10.0, 0.5)))


def test_the_lines_have_the_recipe_and_the_command_that_judges_it() -> None:
    out = io.StringIO()
    print_search(
        FOUND, Path("p.html"), Path("r.json"), "edge-parity run m --quantize r.json", Console(file=out, width=100)
    )
    said = out.getvalue()
    assert "FOUND  m" in said
    assert "judge   edge-parity run m --quantize r.json" in said
    assert "mixed-1 *" in said


@pytest.mark.parametrize(
    ("budget", "kl_mean", "mb", "kept"),
    [
        ((0.1, None), 0.1, 99, True),
        ((0.1, None), 0.2, 1, False),
        ((None, 50), 9.0, 50, True),
        ((None, 50), 0.0, 51, False),
        ((0.1, None), None, 1, False),
        ((None, 50), math.nan, 1, False),
        ((None, None), 0.0, 1, False),
    ],
)
def test_a_file_keeps_the_budget_that_is_given(
    budget: tuple[float | None, float | None], kl_mean: float | None, mb: float, kept: bool
) -> None:
    assert within_budget(*budget, kl_mean, mb) is kept
