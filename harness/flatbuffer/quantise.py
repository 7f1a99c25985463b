"""Quantise a float32 flatbuffer by a recipe, with ai-edge-quantizer: seconds, where a conversion takes minutes.

In: a file and rules. Out: another file. litert-torch's own modes do the same to the file that they convert, bit for
bit.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel, Operator, Subgraph
from harness.names.recipes import Rules
from harness.plain import one_line

QUANTISER = "ai-edge-quantizer"


def quantise(source: Path, rules: Rules, target: Path, recipe: str) -> None:
    """Write the quantised file. recipe: its name, for messages. Raises UsageError for rules that cannot be applied."""
    from ai_edge_quantizer import quantizer

    refuse_unmatched(source, rules, recipe)
    try:
        made = quantizer.Quantizer(str(source), rules).quantize().quantized_model
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _refused(recipe, error) from None
    target.write_bytes(made)


def refuse_rules(rules: Rules, recipe: str) -> None:
    """Raises UsageError for rules that the quantiser takes for no file. recipe: its name, for messages."""
    from ai_edge_quantizer import recipe_manager

    try:
        recipe_manager.RecipeManager().load_quantization_recipe([dict(rule) for rule in rules])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _refused(recipe, error) from None


def _refused(recipe: str, error: Exception) -> UsageError:
    said = one_line(error, 300)
    return UsageError(f"--quantize {recipe}: {QUANTISER} refuses it ({said}); fix the recipe")


def refuse_unmatched(source: Path, rules: Rules, recipe: str) -> None:
    """Raises UsageError for a rule that names a place which the file has not: the quantiser would pass it over.

    A rule for every name may speak of kinds of operators that a model has not; recipes for all models do.
    """
    file = FlatbufferModel(source)
    scopes = dict.fromkeys(
        (operator.kind, scope_of(graph, operator))
        for graph in map(file.subgraph, range(file.subgraph_count))
        for operator in graph.operators
    )
    for number, rule in enumerate(rules):
        regex, kind = str(rule["regex"]), str(rule["operation"])
        if kind in _OUTSIDE or all(re.search(regex, name) for name in ("", "a")):
            continue
        if not any(kind in ("*", found) and re.search(regex, scope) for found, scope in scopes):
            example = next((scope for found, scope in scopes if found == "FULLY_CONNECTED"), "").split(";")[0]
            raise UsageError(
                f"--quantize {recipe}: rule {number} (regex {regex!r}, operation {kind}) matches no operator of the "
                f"file, and would silently do nothing; an operator is called by what it gives, e.g. {_end(example)!r}"
            )


_OUTSIDE = ("INPUT", "OUTPUT")  # of the quantiser's, no operators
_LONGEST_SCOPE = 10_000  # where the quantiser cuts it
_SHOWN = 90  # characters of a name


def scope_of(graph: Subgraph, operator: Operator) -> str:
    """What the quantiser searches with a rule's regex: the names of what an operator gives, a semicolon after each."""
    names = (graph.tensors[index].name for index in operator.outputs if index >= 0)
    return "".join(f"{name};" for name in names if name)[:_LONGEST_SCOPE]


def _end(name: str) -> str:
    return name if len(name) <= _SHOWN else f"...{name[-_SHOWN:]}"


def quantiser_version() -> str:
    return f"{QUANTISER} {version(QUANTISER)}"


def known_recipe(name: str) -> Rules | None:
    """The rules of a recipe that ai-edge-quantizer has a name for, `dynamic_wi4_afp32`, with or without `_afp32`.

    None for a name that it has not.
    """
    from ai_edge_quantizer import recipe

    known = next((known for known in (name, f"{name}{_FLOAT_ACTIVATIONS}") if known in _named()), None)
    return None if known is None else list(getattr(recipe, known)())


def known_recipes() -> list[str]:
    """The names of those that ai-edge-quantizer has and that are judged here: with float activations."""
    return [name for name in _named() if name.endswith(_FLOAT_ACTIVATIONS)]


_FLOAT_ACTIVATIONS = "_afp32"


def _named() -> list[str]:
    from ai_edge_quantizer import recipe

    kinds = ("dynamic_", "weight_only_", "static_")
    return [name for name in vars(recipe) if name.startswith(kinds) and callable(getattr(recipe, name))]
