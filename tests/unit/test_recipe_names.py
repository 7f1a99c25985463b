"""`--quantize`: the words it takes, and that a recipe which is none is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.flatbuffer.quantise import known_recipe, known_recipes
from harness.names.recipes import (
    RECIPES,
    TF_RECIPES,
    Recipe,
    Rules,
    check_declared,
    no_recipe,
    parse_recipes,
    refuse_other_modes,
    widened_by,
)
from harness.names.stages import KERAS, REAUTHORED
from harness.system.reading import read_text

RULE: dict[str, Any] = {
    "regex": ".*",
    "operation": "FULLY_CONNECTED",
    "algorithm_key": "min_max_uniform_quantize",
    "op_config": {"weight_tensor_config": {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE"}},
}


def known(name: str) -> Rules | None:
    """Stands in for ai-edge-quantizer."""
    return [RULE] if name in ("dynamic_wi4", "dynamic_wi4_afp32") else None


def parsed(text: str) -> tuple[Recipe, ...]:
    return parse_recipes(text, known, read_text)


def refused(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parsed(text)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    return said


def test_modes_are_taken_in_order_and_once_and_carry_no_rules() -> None:
    assert parsed(" fp16, dynamic_int8,fp16") == (Recipe("fp16"), Recipe("dynamic_int8"))
    assert parsed(",".join(RECIPES)) == tuple(map(Recipe, RECIPES))


def test_a_name_of_ai_edge_quantizer_carries_its_rules() -> None:
    (recipe,) = parsed("dynamic_wi4")
    assert (recipe.name, json.loads(recipe.rules)) == ("dynamic_wi4", [RULE])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "--quantize is empty; give some of dynamic_int8"),
        (" , ", "--quantize is empty"),
        ("fp16,", "no recipe ''"),
        ("x y", "no recipe 'x y'"),
        ("__class__", "no recipe '__class__'"),
        ("none", "no recipe 'none'"),
        ("file", "no recipe 'file'"),
    ],
)
def test_a_word_that_can_name_no_recipe_is_refused_with_those_there_are(text: str, says: str) -> None:
    assert says in refused(text)
    assert "dynamic_int8" in refused(text)


def test_a_name_that_nobody_knows_yet_is_left_to_the_declaration_of_the_model() -> None:
    assert parsed("fp16,mixed") == (Recipe("fp16"), Recipe("mixed", own=True))


def test_what_is_said_of_no_recipe_has_modes_near_names_own_ones_and_files() -> None:
    named = ["dynamic_wi4b32_afp32", "weight_only_wi8_afp32", "dynamic_wi8_afp32"]
    said = str(no_recipe("dynamic_wi4b23_afp32", named, ["mixed"], "smollm2"))
    assert len(said.splitlines()) == 1
    assert "no recipe 'dynamic_wi4b23_afp32', did you mean 'dynamic_wi4b32_afp32'?" in said
    assert all(mode in said for mode in RECIPES)
    assert "a recipe that smollm2 declares (mixed)" in said
    assert "a JSON file of rules" in said
    far = str(no_recipe("zzz", named))
    assert "did you mean" not in far
    assert "declares" not in far


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fp16", "the recipe 'fp16' is called as one that is a mode of litert-torch; rename it"),
        ("dynamic_wi4", "is called as one that is ai-edge-quantizer's"),
        ("none", "cannot be called 'none'"),
        ("file", "cannot be called 'file'"),
        ("a b", "cannot be called 'a b'"),
        (3, "cannot be called 3"),
    ],
)
def test_a_recipe_of_a_declaration_has_a_name_of_its_own(name: object, says: str) -> None:
    check_declared(["mixed"], known, "smollm2")
    with pytest.raises(UsageError, match="smollm2: ") as caught:
        check_declared(["mixed", name], known, "smollm2")
    assert says in str(caught.value)


@pytest.mark.miniature  # imports the quantiser
def test_every_name_that_is_offered_is_taken() -> None:
    offered = known_recipes()
    assert "dynamic_wi4b32_afp32" in offered
    for name in offered:
        (recipe,) = parse_recipes(name, known_recipe, read_text)
        assert (recipe.name, recipe.own) == (name, False)


def write(folder: Path, content: object, name: str = "mine.json") -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_a_file_is_a_recipe_of_its_own_name(tmp_path: Path) -> None:
    file = write(tmp_path, [RULE])
    assert parsed(f"fp16,{file}") == (Recipe("fp16"), Recipe("mine", json.dumps([RULE], sort_keys=True)))
    assert parsed(f"{file},{file}") == parsed(str(file))


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps([RULE]), encoding="utf-8-sig")
    assert parsed(str(file))[0].name == "mine"


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in RULE.items() if name != key}


STATIC = {**RULE, "op_config": {"activation_tensor_config": {"num_bits": 8}}}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ({"regex": ".*"}, "it is not a list of rules"),
        ([], "it is not a list of rules"),
        ("null", "it is not a list of rules"),
        ("3", "it is not a list of rules"),
        ([3], "rule 0 has no 'regex'"),
        ([RULE, without("regex")], "rule 1 has no 'regex'"),
        ([without("operation")], "rule 0 has no 'operation'"),
        ([without("algorithm_key")], "rule 0 has no 'algorithm_key'"),
        ([{**RULE, "regex": "("}], "regex '(' of rule 0 is not one"),
        ([{**RULE, "op_config": [1]}], "op_config of rule 0 is not an object"),
        ([{**RULE, "op_config": {"weight_tensor_config": "int8"}}], "weight_tensor_config of rule 0 is not an object"),
        ([RULE, STATIC], "rule 1 quantises activations statically"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_what_is_wrong(tmp_path: Path, content: object, says: str) -> None:
    file = write(tmp_path, content)
    said = refused(str(file))
    assert says in said
    assert str(file) in said


@pytest.mark.parametrize("name", [*RECIPES, "none"])
def test_a_file_with_the_name_of_a_mode_is_refused(tmp_path: Path, name: str) -> None:
    assert "rename the file" in refused(str(write(tmp_path, [RULE], f"{name}.json")))


@pytest.mark.parametrize("name", ["a b.json", "[x].json", "-x.json", "é.json", "a->b.json"])
def test_a_file_whose_name_cannot_name_a_stage_is_refused(tmp_path: Path, name: str) -> None:
    assert "cannot name a stage" in refused(str(write(tmp_path, [RULE], name)))


def test_two_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a", [RULE], "mine.json"), write(tmp_path / "b", [RULE, RULE], "mine.json")
    assert "two recipes are called 'mine'" in refused(f"{one},{other}")
    own = write(tmp_path, [RULE, RULE], "dynamic_wi4.json")
    assert "two recipes are called 'dynamic_wi4'" in refused(f"dynamic_wi4,{own}")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in refused(str(tmp_path / "gone.json"))
    assert "cannot be read (Is a directory" in refused(f"{tmp_path}/")
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(20_000_000)
    assert "20,000,000 bytes" in refused(str(huge))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe[]")
    assert "not UTF-8" in refused(str(tmp_path / "bytes.json"))


@pytest.mark.miniature
@pytest.mark.parametrize(
    ("recipe", "widened"),
    [("dynamic_wi8_afp32", ""), ("weight_only_wi8_afp32", "integers"), ("dynamic_wi4_afp32", "")],
)
def test_what_a_runtime_widens_is_told_by_the_rules(recipe: str, widened: str) -> None:
    rules = known_recipe(recipe)
    assert rules is not None
    assert widened_by(rules) == widened


def test_rules_that_nobody_knows_take_the_most_memory() -> None:
    assert widened_by([]) == widened_by([RULE]) == "integers"
    half = {**RULE, "op_config": {"weight_tensor_config": {"num_bits": 16, "dtype": "FLOAT"}}}
    assert widened_by([half]) == "float16"
    whole = {**RULE, "op_config": {**RULE["op_config"], "compute_precision": "INTEGER"}}
    assert widened_by([whole]) == ""
    assert widened_by([whole, RULE]) == "integers"


@pytest.mark.parametrize(("own", "mine", "others"), [(KERAS, TF_RECIPES, RECIPES), (REAUTHORED, RECIPES, TF_RECIPES)])
def test_a_mode_of_another_converter_is_refused_with_those_that_there_are(
    own: str, mine: tuple[str, ...], others: tuple[str, ...]
) -> None:
    refuse_other_modes(parsed(",".join(mine)), own, "mine")
    for name in others:
        with pytest.raises(UsageError) as caught:
            refuse_other_modes(parsed(f"{mine[0]},{name}"), own, "mine")
        said = str(caught.value)
        assert f"--quantize {name} is a mode of" in said
        assert all(known in said for known in mine)
        assert len(said.splitlines()) == 1
