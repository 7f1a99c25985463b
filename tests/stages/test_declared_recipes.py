"""Recipes that a declaration brings: they become rules, wrong ones are refused in one line, and the file that they make
is the one that litert-torch's converter writes by them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from litert_torch.generative.quantize import quant_attrs
from litert_torch.generative.quantize.quant_recipe import GenerativeQuantRecipe
from litert_torch.generative.quantize.quant_recipe_utils import (
    create_layer_quant_dynamic,
    create_layer_quant_weight_only,
)
from litert_torch.generative.quantize.quant_recipes import full_dynamic_recipe
from litert_torch.quantize.quant_config import QuantConfig
from quantised_files import model, rules_of

from harness.errors import UsageError
from harness.flatbuffer.quantise import quantise
from harness.flatbuffer.reader import FlatbufferModel
from harness.names.recipes import Recipe, Rules
from harness.spec.recipes import check_recipes, rules_for
from harness.stages.litert_torch.declaration import GenerativeModel

pytestmark = pytest.mark.slow
INT8 = create_layer_quant_dynamic()
INT4 = create_layer_quant_dynamic(quant_attrs.Dtype.INT4, quant_attrs.Granularity.BLOCKWISE_32)


def by_place(config: Any) -> GenerativeQuantRecipe:
    """Two kinds of layers, in ways that litert-torch has words for and its files have places for."""
    return GenerativeQuantRecipe(default=INT4, embedding=INT8)


def by_layer(config: Any) -> GenerativeQuantRecipe:
    return GenerativeQuantRecipe(attention=INT8, feedforward=INT4)


def by_name(config: Any) -> Rules:
    """Attention in int8 beside an MLP in int4."""
    from ai_edge_quantizer import recipe

    return list(recipe.dynamic_wi8c_afp32() + recipe.dynamic_wi4b32_afp32(regex="GatedFeedForward_ff"))


def declared(recipes: object) -> GenerativeModel:
    declaration = model().model
    assert isinstance(declaration, GenerativeModel)
    return dataclasses.replace(declaration, recipes=recipes)  # type: ignore[arg-type]


def rules(make: Callable[[Any], Any], name: str = "mine") -> Rules:
    own = declared({name: make})
    wanted = Recipe(name, own=True)
    check_recipes([wanted], own)
    return rules_for(wanted, own, model().own())


def test_a_quant_config_and_the_recipe_in_it_and_its_rules_are_the_same_recipe() -> None:
    assert rules(full_dynamic_recipe) == rules_of("dynamic_int8")
    assert rules(lambda config: GenerativeQuantRecipe(default=INT8)) == rules_of("dynamic_int8")
    assert rules(lambda config: rules_of("dynamic_int8")) == rules_of("dynamic_int8")


def test_a_recipe_is_made_for_the_config_of_the_run() -> None:
    seen: list[Any] = []

    def make(config: Any) -> QuantConfig:
        seen.append(config)
        return full_dynamic_recipe(config)

    rules(make)
    assert seen[0].vocab_size == model().prepared.dimensions.vocab


def raises(config: Any) -> None:
    raise KeyError("nope")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (raises, "the recipe 'mine' fails with KeyError: 'nope'"),
        (lambda: None, "fails with TypeError"),
        (lambda config: None, "gives None; give a GenerativeQuantRecipe"),
        (lambda config: "dynamic_int8", "gives 'dynamic_int8'; give a GenerativeQuantRecipe"),
        (lambda config: [], "is not a recipe: it is not a list of rules"),
        (lambda config: [3], "rule 0 has no 'regex'"),
        (lambda config: GenerativeQuantRecipe(), "is not a recipe"),
        (lambda config: GenerativeQuantRecipe(default=3), "litert-torch refuses it"),
        (
            lambda config: GenerativeQuantRecipe(default=create_layer_quant_weight_only(quant_attrs.Dtype.INT4)),
            "litert-torch refuses it (Unsupported LayerQuantRecipe",
        ),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(make: Callable[..., Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        rules(make)
    assert says in str(caught.value)
    assert str(caught.value).startswith("tiny_llama: the recipe 'mine'")


@pytest.mark.parametrize("recipes", [None, ["mixed"], {"mixed": "dynamic_int8"}, {"mixed": None}])
def test_a_field_that_holds_no_functions_by_name_is_refused(recipes: Mapping[str, Any]) -> None:
    with pytest.raises(UsageError, match="'recipes' must be names with functions"):
        check_recipes([], declared(recipes))


def test_names_that_clash_are_refused_whether_or_not_they_are_asked_for() -> None:
    with pytest.raises(UsageError, match="'fp16' is called as one that is a mode of litert-torch"):
        check_recipes([], declared({"fp16": by_place}))
    with pytest.raises(UsageError, match="'dynamic_wi4c' is called as one that is ai-edge-quantizer's"):
        check_recipes([], declared({"dynamic_wi4c": by_place}))
    file = Recipe("mixed", json.dumps(rules(by_name)))
    with pytest.raises(UsageError, match="two recipes are called 'mixed'"):
        check_recipes([file], declared({"mixed": by_place}))
    with pytest.raises(UsageError, match="no recipe 'mixd', did you mean 'mixed'"):
        check_recipes([Recipe("mixd", own=True)], declared({"mixed": by_place}))


def made(file: Path, recipe: Rules) -> Path:
    quantise(model().flatbuffer, recipe, file, "mine")
    return file


def test_attention_and_mlp_have_each_its_own_type(tmp_path: Path) -> None:
    file = FlatbufferModel(made(tmp_path / "made.tflite", rules(by_name)))
    graph = file.subgraph(file.signatures["decode"].subgraph)
    held = {
        graph.tensors[op.outputs[0]].name.split(";")[0].rpartition(".Linear_")[2]: graph.tensors[op.inputs[1]].dtype
        for op in graph.operators
        if op.kind == "FULLY_CONNECTED"
    }
    assert {held[name] for name in ("w1", "w2", "w3")} == {"INT4"}
    assert {dtype for name, dtype in held.items() if name not in ("w1", "w2", "w3")} == {"INT8"}


def test_a_rule_for_a_place_that_the_file_lacks_is_refused(tmp_path: Path) -> None:
    """litert-torch's own words for attention and MLP name no operator of the files that it converts."""
    with pytest.raises(UsageError, match=r"rule 0 .*layers.attention'.* matches no operator of the file"):
        made(tmp_path / "made.tflite", rules(by_layer))
    wrong_kind = [{**rules(by_name)[1], "operation": "CONV_2D"}]
    with pytest.raises(UsageError, match=r"rule 0 .*CONV_2D.* matches no operator"):
        made(tmp_path / "made.tflite", wrong_kind)


def test_a_rule_for_all_names_may_speak_of_operators_that_the_file_lacks(tmp_path: Path) -> None:
    everywhere = {**rules(by_name)[0], "operation": "CONV_2D"}
    made(tmp_path / "made.tflite", [*rules(by_name), everywhere])


@pytest.mark.further
@pytest.mark.parametrize("make", [by_place, by_layer])
def test_the_converter_writes_the_same_bytes_by_it(
    make: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the one whose rules match nothing: its converter leaves every weight in float32 without a word."""
    from litert_torch.generative.utilities import converter
    from litert_torch.generative.utilities.export_config import ExportConfig

    bench = model()
    prepared, own = bench.prepared, bench.own()
    monkeypatch.setattr(
        converter, "get_quant_recipe_from_flag", lambda flag, config: QuantConfig(generative_recipe=make(config))
    )
    written = converter.convert_to_tflite(
        own.load(bench.checkpoint, prepared.kv_cache_len),
        output_path=str(tmp_path),
        output_name_prefix="own",
        prefill_seq_len=prepared.prefill,
        kv_cache_max_len=prepared.kv_cache_len,
        quantize="dynamic_int8",
        export_config=ExportConfig(output_logits_on_prefill=True),
    )
    if make is by_layer:
        monkeypatch.setattr("harness.flatbuffer.quantise.refuse_unmatched", lambda *told: None)
    assert Path(written).read_bytes() == made(tmp_path / "made.tflite", rules(make)).read_bytes()
