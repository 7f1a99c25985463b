"""A record that is written can be read again, whatever its numbers are."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pandas as pd
import pytest
from pydantic import BaseModel

from harness.record.generation import Generation
from harness.record.pair import PairComparison
from harness.record.recipe_search import RecipeSearch
from harness.record.record import Record, read_record, write_record

WHOLE = (Record, PairComparison, RecipeSearch, Generation)


def filled(kind: Any, number: float) -> Any:
    """A value of a type in which every float is `number`, every list has an entry, and nothing optional is absent."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return filled(inner[0], number)
    if origin in (Union, types.UnionType):
        return filled(next(one for one in inner if one is not type(None)), number)
    if origin is Literal:
        return inner[-1]
    if origin in (list, Sequence):
        return [filled(inner[0], number)]
    if origin is tuple:
        return tuple(filled(one, number) for one in inner if one is not Ellipsis)
    if origin in (dict, Mapping):
        return {"a": filled(inner[1], number)}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_construct(**{name: filled(hint, number) for name, hint in hints(kind)})
    return {float: number, int: 1, str: "hf->tflite", bool: False}.get(kind)


def hints(kind: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in kind.model_fields.items():
        fixed = name == "schema_" or (not field.is_required() and isinstance(field.default, bool))
        yield name, (Literal[field.default] if fixed else field.annotation)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_record_of_numbers_that_are_not_finite_is_read_again(number: float, tmp_path: Path) -> None:
    record = filled(Record, number)
    write_record(tmp_path, record, pd.DataFrame())
    assert "NaN" not in (tmp_path / "parity.json").read_text()
    found = read_record(tmp_path)
    (recipe,) = found.recipes
    assert recipe.sensitivity is not None
    assert math.isnan(recipe.sensitivity.tensors[0].outlier_share)
    assert recipe.sensitivity.tensors[0].kl is None
    assert math.isnan(found.hops[0].coverage)


@pytest.mark.parametrize("kind", WHOLE[1:], ids=lambda kind: kind.__name__)
def test_so_are_the_other_things_that_are_written(kind: type[BaseModel]) -> None:
    text = filled(kind, math.nan).model_dump_json(by_alias=True)
    json.loads(text, parse_constant=lambda word: pytest.fail(word))
    kind.model_validate_json(text)
