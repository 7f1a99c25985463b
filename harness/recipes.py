"""Quantisation recipes: which there are, and what their stages and hops are called.

In: the words of `--quantize`. Out: names. Pure. A recipe is one of litert-torch's own conversion modes; the file it
makes runs on several sets of kernels, each a stage that carries the recipe: `tflite-builtin[dynamic_int8]`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from harness.errors import UsageError

FLOAT = "none"
RECIPES = ("dynamic_int8", "weight_only_int8", "fp16", "dynamic_int4_block32", "dynamic_int4_block128")
# Kernels that may run a quantised file. Reference kernels run nothing else here: float32 is judged without them.
XNNPACK, BUILTIN, REFERENCE = "tflite-xnnpack", "tflite-builtin", "tflite-reference"
KERNELS = (XNNPACK, BUILTIN, REFERENCE)


def parse_recipes(text: str) -> tuple[str, ...]:
    """`--quantize A,B`, each once and in order. Raises UsageError."""
    names = [word.strip() for word in text.split(",")]
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


def named(task: str, recipe: str) -> str:
    """A stage's or task's name for a recipe: `tflite-builtin[fp16]`."""
    return task if recipe == FLOAT else f"{task}[{recipe}]"


def split(stage: str) -> tuple[str, str]:
    """A stage's name without its recipe, and the recipe: ("tflite-builtin", "fp16")."""
    base, _, recipe = stage.partition("[")
    return base, recipe.removesuffix("]") or FLOAT


def kernel_hops(stages: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Hops between the kernels of one quantised file, for those of `stages` that take part."""
    recipes = dict.fromkeys(recipe for _, recipe in map(split, stages) if recipe != FLOAT)
    pairs = [(named(BUILTIN, recipe), named(other, recipe)) for recipe in recipes for other in (XNNPACK, REFERENCE)]
    return tuple(pair for pair in pairs if set(pair) <= set(stages))


def is_kernel_hop(source: str, target: str) -> bool:
    """Whether both stages run the same quantised file."""
    return split(source)[1] == split(target)[1] != FLOAT


def unjudged(stages: tuple[str, ...]) -> str:
    """What a run of quantised files does not say, in a sentence; empty for a run without any."""
    recipes = dict.fromkeys(recipe for _, recipe in map(split, stages) if recipe != FLOAT)
    if not recipes:
        return ""
    return (
        f"of {', '.join(recipes)} only that the kernels agree on the quantised file is judged: what the recipe costs "
        "against float32 is not, nor are the file's weights compared with the checkpoint's"
    )
