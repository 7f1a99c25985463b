"""`edge-parity recipe` finds a file that keeps a budget, on real kernels, and repeats nothing that it knows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from watching import Watcher

from harness.errors import UsageError
from harness.names.recipes import Recipe
from harness.pipeline.options import Options
from harness.processes.scheduler import TaskResult
from harness.recipe.command import (
    PAGE_FILE,
    SEARCH_FILE,
    WINNER_FILE,
    SearchOptions,
    check_options,
    judge_command,
    search_recipe,
)
from harness.record.recipe_search import RecipeSearch

MIXED = (Recipe("dynamic_int8"), Recipe("dynamic_int4_block32"))


def options(out: Path, **budget: float) -> SearchOptions:
    return SearchOptions(Options("tiny_llama", miniature=True, quantize=MIXED, out=out), **budget)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({}, "recipe needs a budget; give --max-kl NATS or --max-mb MB, and one of them alone"),
        ({"max_kl": 0.1, "max_mb": 100.0}, "recipe needs a budget"),
        ({"max_kl": -0.1}, "--max-kl -0.1 must be positive and finite"),
        ({"max_kl": 0.0}, "--max-kl 0 must be positive"),
        ({"max_mb": math.nan}, "--max-mb nan must be positive"),
        ({"max_mb": math.inf}, "--max-mb inf must be positive"),
    ],
)
def test_a_budget_that_is_not_one_is_a_line(budget: dict[str, float], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        check_options(options(tmp_path, **budget))
    assert str(raised.value).startswith(said)


class Told(Watcher):
    """Which processes ran."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def ended(self, result: TaskResult) -> None:
        self.ran.append(result.name)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RecipeSearch]:
    return search_recipe(options(tmp_path_factory.mktemp("reports"), max_kl=0.01), Told())


@pytest.mark.slow
def test_a_mixture_is_smaller_than_the_uniform_file_that_keeps_the_budget(first: tuple[Path, RecipeSearch]) -> None:
    folder, found = first
    taken = found.taken
    assert taken is not None
    assert not taken.uniform
    assert taken.kl_mean is not None
    assert taken.kl_mean <= 0.01
    uniform = {one.name: one for one in found.candidates if one.uniform}
    assert set(uniform) == {"dynamic_int8", "dynamic_int4_block32"}
    assert uniform["dynamic_int4_block32"].mb < taken.mb < uniform["dynamic_int8"].mb
    assert not any(one.refused for one in found.candidates)
    assert {path.name for path in folder.iterdir()} >= {WINNER_FILE, SEARCH_FILE, PAGE_FILE}
    assert json.loads((folder / WINNER_FILE).read_text()) == taken.rules
    assert RecipeSearch.model_validate_json((folder / SEARCH_FILE).read_text()) == found
    page = (folder / PAGE_FILE).read_text()
    assert all(one.name in page for one in found.candidates)


@pytest.mark.slow
def test_the_winner_is_a_recipe_that_a_run_judges_as_any_other(first: tuple[Path, RecipeSearch]) -> None:
    from harness.pipeline.run import run

    folder, found = first
    taken = found.taken
    assert taken is not None
    words = judge_command(options(folder).run, folder / WINNER_FILE).split()
    assert words == ["edge-parity", "run", "tiny_llama", "--miniature", "--quantize", str(folder / WINNER_FILE)]
    own = Recipe("recipe", (folder / WINNER_FILE).read_text())
    _, record = run(Options("tiny_llama", miniature=True, quantize=(own,), out=folder), Told())
    price = record.hop("reauthored->fakequant[recipe]").logits
    assert price is not None
    assert price.kl_mean == pytest.approx(taken.kl_mean, rel=0.05)
    assert [finding for finding in record.findings if finding.code.startswith("recipe-")] == []


@pytest.mark.slow
def test_another_budget_measures_only_what_is_new(first: tuple[Path, RecipeSearch]) -> None:
    folder, found = first
    told = Told()
    _, again = search_recipe(options(folder, max_mb=found.candidates[2].mb + 0.01), told)
    known = {json.dumps(one.rules) for one in found.candidates}
    new = [one for one in again.candidates if json.dumps(one.rules) not in known]
    measured = [name for name in told.ran if name.startswith("tflite-xnnpack[")]
    assert len(measured) == len(new)
    assert not any(name.startswith("sensitivity") for name in told.ran)
    taken = again.taken
    assert taken is not None
    assert taken.mb <= found.candidates[2].mb + 0.01
    fits = [one for one in again.candidates if one.mb <= (again.max_mb or 0)]
    assert taken.kl_mean == min(one.kl_mean for one in fits if one.kl_mean is not None)


@pytest.mark.slow
def test_a_budget_that_nothing_keeps_has_no_winner_and_no_recipe(first: tuple[Path, RecipeSearch]) -> None:
    folder, _ = first
    written, found = search_recipe(options(folder, max_mb=0.5), Told())
    assert found.winner is None
    assert found.candidates
    assert not (written / WINNER_FILE).exists()
    assert "no recipe of" in (written / PAGE_FILE).read_text()
