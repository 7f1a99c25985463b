"""Quantisation recipes that a declaration has of its own, as rules of ai-edge-quantizer.

In: a declaration, and the `ModelConfig` of the run. Out: rules. litert-torch's converter translates its recipes in the
same way, and applies them as its last step: whoever applies the rules to its float32 file gets the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.errors import UsageError
from harness.plain import brief
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.weights.configs import first_line


def declared_recipes(model: GenerativeModel) -> tuple[str, ...]:
    """Their names. Raises UsageError where the declaration has something else there."""
    found: object = model.recipes
    if not isinstance(found, Mapping) or not all(callable(make) for make in found.values()):
        raise UsageError(
            f"{model.name}: 'recipes' must be names with functions that make a recipe, not {brief(found)}; fix the "
            "model's spec file"
        )
    return tuple(found)


def declared_rules(model: GenerativeModel, name: str, config: Any) -> object:
    """What the recipe of a name asks for. config: a `ModelConfig`. Raises UsageError."""
    where = f"{model.name}: the recipe '{name}'"
    try:
        made = model.recipes[name](config)
    except Exception as error:
        raise UsageError(
            f"{where} fails with {type(error).__name__}: {first_line(error)}; fix the model's spec file"
        ) from error
    if isinstance(made, list):
        return _plain(made)
    from litert_torch.generative.quantize.quant_recipe import GenerativeQuantRecipe
    from litert_torch.quantize.quant_config import QuantConfig

    recipe = made.generative_recipe if isinstance(made, QuantConfig) else made
    if not isinstance(recipe, GenerativeQuantRecipe):
        what = "a QuantConfig for PyTorch's own quantiser" if recipe is None and made is not None else brief(made)
        raise UsageError(
            f"{where} gives {what}; give a GenerativeQuantRecipe of litert-torch, a QuantConfig with one, or a list of "
            "ai-edge-quantizer's rules"
        )
    return _translated(recipe, where)


def _translated(recipe: Any, where: str) -> object:
    from litert_torch.quantize.translate_recipe import translate_to_ai_edge_recipe

    try:
        recipe.verify()
        return _plain(translate_to_ai_edge_recipe(recipe))
    except Exception as error:
        raise UsageError(
            f"{where}: litert-torch refuses it ({first_line(error)}); fix the model's spec file"
        ) from error


def _plain(rules: Any) -> object:
    """Words in place of enumerations, as in a recipe's file."""
    return json.loads(json.dumps(rules, default=str))
