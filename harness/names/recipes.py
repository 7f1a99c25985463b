"""Quantisation recipes: which there are, and what widths they need.

In: the words of `--quantize`. Out: names and rules. A recipe is a mode of the converter that the model's route has, one
that ai-edge-quantizer has a name for, one that the model's declaration has, or a JSON file in ai-edge-quantizer's
format; the file that it makes runs on several sets of kernels, each a stage that carries the recipe:
`tflite-builtin[dynamic_int8]`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.names.stages import FLOAT, KERAS, REAUTHORED

Rules = list[dict[str, Any]]  # as ai-edge-quantizer's JSON has them

GIVEN_FILE = "file"  # stands for the recipe of a quantised file that the user gives
RECIPES = ("dynamic_int8", "weight_only_int8", "fp16", "dynamic_int4_block32", "dynamic_int4_block128")
TF_DYNAMIC_RANGE, TF_FLOAT16 = "tf_dynamic_range", "tf_float16"
TF_FULL_INTEGER, TF_INT16_ACTIVATIONS = "tf_full_integer", "tf_int16_activations"
# The ranges of their activations are fixed while they are converted.
STATIC = (TF_FULL_INTEGER, TF_INT16_ACTIVATIONS)
TF_RECIPES = (TF_DYNAMIC_RANGE, TF_FLOAT16, TF_FULL_INTEGER, TF_INT16_ACTIVATIONS)
# The modes of each route's converter, by the stage that runs the route's own version; and whose they are.
MODES: Mapping[str, tuple[str, ...]] = {REAUTHORED: RECIPES, KERAS: TF_RECIPES}
CONVERTERS: Mapping[str, str] = {REAUTHORED: "litert-torch", KERAS: "TensorFlow's converter"}
_EVERY_MODE = tuple(name for names in MODES.values() for name in names)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Recipe:
    """A recipe that was asked for. rules: JSON, empty where the model's route says them: for a mode, and for `own`.

    own: whether it is none of those that every model has, so that the model's declaration must have it.
    """

    name: str
    rules: str = ""
    own: bool = False


def parse_recipes(
    text: str, known: Callable[[str], Rules | None], read: Callable[[Path, str], str]
) -> tuple[Recipe, ...]:
    """`--quantize A,B`, each once and in order. Raises UsageError.

    A name that is not known yet may be one that the model declares: see `no_recipe`.
    known: gives the rules of a recipe that ai-edge-quantizer has a name for, None for another name.
    read: gives the text of a file, or raises UsageError with what to do instead.
    """
    words = [word.strip() for word in text.split(",")]
    if not any(words):
        raise UsageError(f"--quantize is empty; give some of {', '.join(RECIPES)}, or a recipe's JSON file")
    found = [_recipe(word, text, known, read) for word in words]
    names = [recipe.name for recipe in found]
    twice = next((one for one in found for other in found if one.name == other.name and one.rules != other.rules), None)
    if twice is not None:
        raise UsageError(f"--quantize {text}: two recipes are called '{twice.name}'; rename one of the files")
    return tuple(found[names.index(name)] for name in dict.fromkeys(names))


def _recipe(word: str, text: str, known: Callable[[str], Rules | None], read: Callable[[Path, str], str]) -> Recipe:
    if is_file(word):
        return _of_file(Path(word), read)
    if word in _EVERY_MODE:
        return Recipe(word)
    if not is_recipe_name(word):
        raise no_recipe(word, [])
    rules = known(word)
    return Recipe(word, own=True) if rules is None else checked(word, rules, f"--quantize {word}")


def is_file(word: str) -> bool:
    """Whether a word of `--quantize` names a file."""
    return word.endswith(".json") or "/" in word


def is_recipe_name(word: str) -> bool:
    """Whether a recipe may be called so: it stands in the names of stages, and is no other word for a file."""
    return _NAME.fullmatch(word) is not None and word not in (FLOAT, GIVEN_FILE)


def no_recipe(word: str, named: Sequence[str], declared: Sequence[str] = (), model: str = "") -> UsageError:
    """What to say of a word that is not a recipe.

    named: what ai-edge-quantizer has names for. declared: what the declaration of `model` has; empty for none.
    """
    near = difflib.get_close_matches(word, [*_EVERY_MODE, *declared, *named], n=1)
    alike = difflib.get_close_matches(word, named, n=3) or list(named[:1])
    quantiser = f"a name of ai-edge-quantizer's ({', '.join(alike)})" if alike else "a name of ai-edge-quantizer's"
    own = f", a recipe that {model} declares ({', '.join(declared)})" if declared else ""
    return UsageError(
        f"--quantize: no recipe '{word}'{f', did you mean {near[0]!r}?' if near else ''}; give {_modes_words()}, "
        f"{quantiser}{own}, or a JSON file of rules (my_recipe.json)"
    )


def _modes_words() -> str:
    """`a mode of litert-torch (fp16, ...) or TensorFlow's converter (...)`"""
    return "a mode of " + " or ".join(f"{CONVERTERS[own]} ({', '.join(names)})" for own, names in MODES.items())


def refuse_other_modes(recipes: Sequence[Recipe], own_stage: str, model: str) -> None:
    """Raises UsageError for a mode of another route's converter: a file of this route cannot be made so.

    own_stage: that runs the version of the model's route.
    """
    for recipe in recipes:
        other = next((own for own, names in MODES.items() if own != own_stage and recipe.name in names), None)
        if other is not None and not recipe.rules:
            raise UsageError(
                f"--quantize {recipe.name} is a mode of {CONVERTERS[other]}, which does not convert {model}; give a "
                f"mode of {CONVERTERS[own_stage]} ({', '.join(MODES[own_stage])}), a name of ai-edge-quantizer's "
                "(dynamic_wi8_afp32) or a JSON file of rules (my_recipe.json)"
            )


def mode_of(name: str) -> str:
    """`a mode of litert-torch`: whose mode a name is; empty for none."""
    found = next((own for own, names in MODES.items() if name in names), None)
    return "" if found is None else f"a mode of {CONVERTERS[found]}"


def check_declared(names: Sequence[object], known: Callable[[str], Rules | None], where: str) -> None:
    """Raises UsageError for a recipe of a declaration that cannot be called so. known: as for `parse_recipes`."""
    for name in names:
        if not isinstance(name, str) or not is_recipe_name(name):
            raise UsageError(
                f"{where}: a recipe cannot be called {name!r}; use letters, digits, '_', '-' and '.', and neither "
                f"'{FLOAT}' nor '{GIVEN_FILE}'"
            )
        of_others = mode_of(name) or ("ai-edge-quantizer's" if known(name) else "")
        if of_others:
            raise UsageError(f"{where}: the recipe '{name}' is called as one that is {of_others}; rename it")


def _of_file(path: Path, read: Callable[[Path, str], str]) -> Recipe:
    remedy = "give a recipe as ai-edge-quantizer writes it"
    try:
        rules = json.loads(read(path, remedy))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON ({error}); {remedy}") from None
    if not _NAME.fullmatch(path.stem):
        raise UsageError(f"{path}: '{path.stem}' cannot name a stage; use letters, digits, '_', '-' and '.'")
    if mode_of(path.stem) or path.stem in (FLOAT, GIVEN_FILE):
        what = mode_of(path.stem) or "another word for a file"
        raise UsageError(f"{path}: '{path.stem}' is the name of {what}; rename the file")
    return checked(path.stem, rules, str(path))


def rules_of(recipe: Recipe) -> Rules:
    """Those that a recipe carries."""
    return list(json.loads(recipe.rules))


def checked(name: str, rules: object, where: str) -> Recipe:
    """Raises UsageError for what is not a list of rules, or asks for what no run here judges."""
    remedy = "give a list of rules as ai-edge-quantizer writes it"
    if not isinstance(rules, list) or not rules:
        raise UsageError(f"{where} is not a recipe: it is not a list of rules; {remedy}")
    for number, rule in enumerate(rules):
        lacking = [
            key for key in ("regex", "operation", "algorithm_key") if not isinstance(rule, dict) or key not in rule
        ]
        if lacking:
            raise UsageError(f"{where} is not a recipe: rule {number} has no '{lacking[0]}'; {remedy}")
        try:
            re.compile(str(rule["regex"]))
        except re.error as error:
            raise UsageError(f"{where}: regex {rule['regex']!r} of rule {number} is not one ({error})") from None
        config = rule.get("op_config") or {}
        if not isinstance(config, dict):
            raise UsageError(f"{where}: op_config of rule {number} is not an object; {remedy}")
        if not isinstance(config.get("weight_tensor_config") or {}, dict):
            raise UsageError(f"{where}: weight_tensor_config of rule {number} is not an object; {remedy}")
        if config.get("activation_tensor_config"):
            raise UsageError(
                f"{where}: rule {number} quantises activations statically, which is not judged yet; give a recipe with "
                "float activations (dynamic, weight-only or float16)"
            )
    return Recipe(name, json.dumps(rules, sort_keys=True, default=str))


def widened_by(rules: Rules) -> str:
    """What a runtime turns into float32 before it multiplies, by what rules ask for: "float16", "integers", or "" where
    all rules have whole numbers multiplied. Of rules that nobody knows, "integers", which takes the most memory.
    """
    asked = [rule.get("op_config") or {} for rule in rules if rule.get("algorithm_key") != "no_quantize"]
    if not asked:
        return "integers"
    weights = [config.get("weight_tensor_config") or {} for config in asked]
    if all(weight.get("dtype") == "FLOAT" for weight in weights):
        return "float16"
    return "" if all(config.get("compute_precision") == "INTEGER" for config in asked) else "integers"


def block_size(recipe: str) -> int:
    """How many numbers of a row share a scale; 1 where a recipe has no blocks."""
    return int(recipe.partition("_block")[2] or 1)


def check_widths(recipes: Sequence[str], widths: Mapping[str, int], model: str) -> None:
    """Raises UsageError for a recipe whose blocks do not fit into the rows of a model's weights.

    widths: what a row belongs to, in words -> its length.
    """
    for recipe in recipes:
        block = block_size(recipe)
        for what, width in widths.items():
            if width % block:
                fits = [other for other in RECIPES if all(size % block_size(other) == 0 for size in widths.values())]
                raise UsageError(
                    f"--quantize {recipe} takes blocks of {block} numbers, and {what} of {model} is {width}, which "
                    f"they do not divide; leave it out (those that fit: {', '.join(fits)})"
                )
