"""A mixed recipe says for each layer what it is to be, and for no other."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.recipe.rules import LayerOperator, mixed_rules

FULL, LOOKUP = "FULLY_CONNECTED", "EMBEDDING_LOOKUP"
RULES: dict[str, list[dict[str, Any]]] = {
    "int8": [{"regex": ".*", "operation": "*", "algorithm_key": "min_max", "op_config": {"bits": 8}}],
    "int4": [
        {"regex": ".*", "operation": FULL, "algorithm_key": "min_max", "op_config": {"bits": 4}},
        {"regex": ".*head.*", "operation": FULL, "algorithm_key": "min_max", "op_config": {"bits": 8}},
    ],
}
OPERATORS = {
    "embed": [LayerOperator(LOOKUP, "model/embedding;"), LayerOperator(LOOKUP, "model/embedding;1;")],
    "block.1.mlp.up": [LayerOperator(FULL, "model/block_1/w1;"), LayerOperator(FULL, "model/block_1/w1;1;")],
    "block.10.mlp.up": [LayerOperator(FULL, "model/block_10/w1;"), LayerOperator(FULL, "model/block_10/w1;1;")],
    "logits": [LayerOperator(FULL, "prefill_head;"), LayerOperator(FULL, "decode_head;")],
}


def asked(rules: list[dict[str, Any]], operator: LayerOperator) -> int | None:
    """What the quantiser would do: the last rule that matches."""
    last = [r for r in rules if r["operation"] in ("*", operator.kind) and re.search(r["regex"], operator.scope)]
    return last[-1]["op_config"]["bits"] if last else None


@pytest.mark.parametrize(
    "choice",
    [
        {"embed": "int8", "block.1.mlp.up": "int4", "block.10.mlp.up": "none", "logits": "int4"},
        {"embed": "none", "block.1.mlp.up": "none", "block.10.mlp.up": "int8", "logits": "int8"},
        {"embed": "int8", "block.1.mlp.up": "int8", "block.10.mlp.up": "int4", "logits": "none"},
    ],
)
def test_every_layer_is_what_was_chosen_in_every_signature(choice: dict[str, str]) -> None:
    rules = mixed_rules(choice, RULES, OPERATORS)
    # The rule for the head in `int4` says 8 bits, and comes last there.
    bits = {"none": None, "int8": 8, "int4": 4}
    for layer, operators in OPERATORS.items():
        wanted = 8 if (layer, choice[layer]) == ("logits", "int4") else bits[choice[layer]]
        assert [asked(rules, operator) for operator in operators] == [wanted, wanted]


def test_a_recipe_that_has_no_rule_for_a_kind_leaves_it_in_float() -> None:
    assert mixed_rules({"embed": "int4"}, RULES, OPERATORS) == []


def test_a_constant_that_two_kinds_take_has_a_rule_for_each() -> None:
    tied = {"embed": [*OPERATORS["embed"], *OPERATORS["logits"]]}
    rules = mixed_rules({"embed": "int8"}, RULES, tied)
    assert [rule["operation"] for rule in rules] == [LOOKUP, FULL]


def test_layers_that_no_rule_can_tell_apart_are_refused() -> None:
    same = {name: [LayerOperator(FULL, "model/shared;")] for name in ("block.0.mlp.up", "block.1.mlp.up")}
    with pytest.raises(ValueError, match=re.escape("the operators of block.0.mlp.up have the names of another")):
        mixed_rules({"block.0.mlp.up": "int8", "block.1.mlp.up": "int4"}, RULES, same)
