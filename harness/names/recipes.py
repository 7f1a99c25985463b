"""Quantisation recipes: which there are, and what widths they need.

In: the words of `--quantize`. Out: names. Pure. A recipe is one of litert-torch's own conversion modes; the file it
makes runs on several sets of kernels, each a stage that carries the recipe: `tflite-builtin[dynamic_int8]`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from harness.errors import UsageError
from harness.names.stages import FLOAT, split

RECIPES = ("dynamic_int8", "weight_only_int8", "fp16", "dynamic_int4_block32", "dynamic_int4_block128")


def parse_recipes(text: str) -> tuple[str, ...]:
    """`--quantize A,B`, each once and in order. Raises UsageError."""
    names = [word.strip() for word in text.split(",")]
    if not any(names):
        raise UsageError(f"--quantize is empty; give some of {', '.join(RECIPES)}")
    for name in names:
        if name not in RECIPES:
            near = difflib.get_close_matches(name, RECIPES, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the recipes are {', '.join(RECIPES)}"
            raise UsageError(f"--quantize {text}: no recipe '{name}'; {hint}")
    return tuple(dict.fromkeys(names))


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


def unjudged(stages: tuple[str, ...]) -> str:
    """What a run of quantised files does not say, in a sentence; empty for a run without any."""
    recipes = dict.fromkeys(recipe for _, recipe in map(split, stages) if recipe != FLOAT)
    if not recipes:
        return ""
    return (
        f"of {', '.join(recipes)} only that the kernels agree on the quantised file is judged: what the recipe costs "
        "against float32 is not, nor are the file's weights compared with the checkpoint's"
    )
