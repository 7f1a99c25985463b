"""The quantisation recipes that a declaration has: their names, as far as reading shows them, and their rules.

In: a declaration, found or run. Out: names and rules, or a UsageError. Which object stands behind a name is the
route's own: see `Route.declared_rules`.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from harness.errors import UsageError
from harness.flatbuffer.quantise import known_recipe, known_recipes, refuse_rules
from harness.names.recipes import Recipe, Rules, check_declared, checked, no_recipe, rules_of
from harness.spec.model import Model, SpecRef
from harness.spec.route import RouteModel, route_of

_FIELD = "recipes"


def read_recipes(ref: SpecRef) -> list[str] | None:
    """The names of the recipes that a declaration has, by reading it; None where only running it tells."""
    if ref.has_run or ref.unread:
        return None
    written = ref.declared.get(_FIELD, "{}")
    tree = ast.parse(written if isinstance(written, str) else repr(written), mode="eval").body
    if not isinstance(tree, ast.Dict):
        return None
    names = [key.value if isinstance(key, ast.Constant) else None for key in tree.keys]
    return [str(name) for name in names] if None not in names else None


def check_read(recipes: Sequence[Recipe], ref: SpecRef) -> None:
    """Raises UsageError for a recipe that nobody has, where reading the declaration tells."""
    declared = read_recipes(ref)
    if declared is None:
        return
    for recipe in recipes:
        if recipe.own and recipe.name not in declared:
            raise no_recipe(recipe.name, known_recipes(), declared, ref.name)


def check_recipes(recipes: Sequence[Recipe], model: Model) -> None:
    """Raises UsageError for a recipe that nobody has, and for one name of two recipes."""
    declared = route_of(model).declared_recipes(model)
    check_declared(declared, known_recipe, model.name)
    for recipe in recipes:
        if recipe.own and recipe.name not in declared:
            raise no_recipe(recipe.name, known_recipes(), declared, model.name)
        if not recipe.own and recipe.name in declared:
            raise UsageError(
                f"--quantize: two recipes are called '{recipe.name}', a file and one that {model.name} declares; "
                "rename the file"
            )


def rules_for(recipe: Recipe, model: Model, own: RouteModel) -> Rules:
    """What a recipe asks for. own: the route's version of the model, at the sizes of the run. Raises UsageError."""
    if recipe.own:
        where = f"{model.name}: the recipe '{recipe.name}'"
        rules = rules_of(checked(recipe.name, route_of(model).declared_rules(model, recipe.name, own), where))
        refuse_rules(rules, recipe.name)
        return rules
    return rules_of(recipe) if recipe.rules else own.recipe_rules(recipe.name)
