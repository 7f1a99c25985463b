"""A mixed recipe in ai-edge-quantizer's own JSON: which rule for which layer. Pure.

In: a recipe for each layer, the rules of these recipes, and what the operators of each layer are called. Out: rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.names.recipes import Rules
from harness.names.stages import FLOAT

_ANY = "*"


@dataclass(frozen=True)
class LayerOperator:
    """An operator that takes a layer's weight. scope: what ai-edge-quantizer matches: the names of what it gives."""

    kind: str
    scope: str


def mixed_rules(
    choice: Mapping[str, str], rules: Mapping[str, Rules], operators: Mapping[str, Sequence[LayerOperator]]
) -> Rules:
    """For each layer the rules of its recipe, for its own operators alone. A layer left in float32 has none.

    Raises ValueError for two layers whose operators have the same names: no rule can tell them apart.
    """
    found: Rules = []
    for layer, recipe in choice.items():
        if recipe == FLOAT:
            continue
        for kind in dict.fromkeys(operator.kind for operator in operators[layer]):
            own = [operator.scope for operator in operators[layer] if operator.kind == kind]
            others = [
                operator.scope
                for name, every in operators.items()
                for operator in every
                if name != layer and operator.kind == kind
            ]
            last = [rule for rule in rules[recipe] if rule["operation"] in (_ANY, kind) and _matches(rule, own)]
            found += [{**rule, "regex": _regex(own, others, layer), "operation": kind} for rule in last[-1:]]
    return found


def _matches(rule: Mapping[str, object], scopes: Sequence[str]) -> bool:
    return all(re.search(str(rule["regex"]), scope) for scope in scopes)


def _regex(scopes: Sequence[str], others: Sequence[str], layer: str) -> str:
    """What all scopes of a layer begin with, where nothing else does; else each of them whole."""
    common = _beginning(scopes)
    if common and not any(scope.startswith(common) for scope in others):
        return "^" + re.escape(common)
    same = sorted(set(scopes) & set(others))
    if same:
        raise ValueError(f"the operators of {layer} have the names of another layer's: {same[0]}")
    return "^(?:" + "|".join(map(re.escape, dict.fromkeys(scopes))) + ")$"


def _beginning(scopes: Sequence[str]) -> str:
    """What all of them begin with, letter by letter: the numbers that tell signatures apart stand at the end."""
    first, last = min(scopes), max(scopes)
    same = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), None)
    return first[: min(len(first), len(last)) if same is None else same]
