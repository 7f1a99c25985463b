"""Recipes that a declaration has: what reading it shows, and that a name which nobody has is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.names.recipes import Recipe
from harness.pipeline.options import Options, check
from harness.spec.find import describe
from harness.spec.recipes import read_recipes

FIELDS = "name='mine', hf_id='a/b', config=a, model_class=b, tensor_names=c, published=d"


def written(folder: Path, more: str, before: str = "") -> Path:
    file = folder / "mine.py"
    file.write_text(f"from harness import GenerativeModel\n{before}\nMINE = GenerativeModel({FIELDS}{more})\n")
    return file


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ("", []),
        (", recipes={}", []),
        (", recipes={'mixed': make, \"other\": lambda config: None}", ["mixed", "other"]),
        (", recipes={'mixed': make, **others}", None),
        (", recipes={NAME: make}", None),
        (", recipes=dict(mixed=make)", None),
        (", recipes=RECIPES", None),
        (", **more", None),
    ],
)
def test_names_are_read_where_they_are_written_out(tmp_path: Path, more: str, names: list[str] | None) -> None:
    (ref,) = describe(written(tmp_path, more))
    assert read_recipes(ref) == names


def test_a_variant_of_a_declaration_has_its_recipes(tmp_path: Path) -> None:
    file = written(tmp_path, ", recipes={'mixed': make}")
    file.write_text(file.read_text() + "SMALL = replace(MINE, kv_cache_len=64)\nNONE = replace(MINE, recipes={})\n")
    assert [read_recipes(ref) for ref in describe(file)] == [["mixed"], ["mixed"], []]


@pytest.mark.miniature  # imports the quantiser
def test_a_recipe_that_the_declaration_lacks_is_refused_before_it_runs(tmp_path: Path) -> None:
    file = written(tmp_path, ", recipes={'mixed': make}")  # none of its names is there: it cannot be run
    check(Options(model=str(file), quantize=(Recipe("mixed", own=True), Recipe("fp16"))))
    with pytest.raises(UsageError, match=r"no recipe 'mixd', did you mean 'mixed'.*that mine declares \(mixed\)"):
        check(Options(model=str(file), quantize=(Recipe("mixd", own=True),)))
