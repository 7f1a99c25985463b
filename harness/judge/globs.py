"""Whether a glob of a tolerance rule can match any hop or tap.

In: a glob. Out: what is wrong with it, in words. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from harness.names.recipe_families import FAMILIES
from harness.names.recipes import RECIPES
from harness.names.stages import Floor, Hop, quantised_hops, standard_hops
from harness.names.taps import BLOCK_POINTS, EMBED, FINAL_NORM, LOGITS, block_tap
from harness.plain import brief

_BLOCKS = 1000  # more than any model has


def selects(pattern: str, text: str) -> bool:
    """Whether a glob of a rule matches a model, hop or tap."""
    # Hops hold brackets (`tflite-xnnpack[dynamic_int8]`) that a glob would read as a set of characters.
    return pattern in ("*", text) or fnmatchcase(text, pattern)


def no_such_hop(pattern: str) -> str:
    """Why a glob matches no hop that a run can have, with the hops there are; empty where it matches one."""
    if any(selects(pattern, hop.name) for hop in _every_hop()):
        return ""
    kernels = (hop.name for hop in quantised_hops(["RECIPE"]))
    standard = ", ".join(hop.name for hop in standard_hops())
    return (
        f"hop {brief(pattern)} matches no hop of any run; the hops are {standard}, "
        f"and with --quantize {' and '.join(kernels)} (a bracket in a glob is written [[])"
    )


def only_prices(pattern: str) -> bool:
    """Whether a glob matches hops that are the price of a recipe, and no others."""
    matched = [hop for hop in _every_hop() if selects(pattern, hop.name)]
    return bool(matched) and all(hop.floor is Floor.PRICE for hop in matched)


def no_such_family(family: str, pattern: str) -> str:
    """Why no file is of a rule's family, or no hop of it about a file; empty where one is, or the rule names none."""
    if family and not any(selects(family, known) for known in FAMILIES):
        return f"family {brief(family)} matches no family of recipes; the families are {', '.join(FAMILIES)}"
    if family and not any(selects(pattern, hop.name) for hop in quantised_hops(RECIPES)):
        return f"hop {brief(pattern)} is not about a quantised file, so none of it is {family}; leave the family out"
    return ""


def no_such_tap(pattern: str) -> str:
    """Why a glob matches no tap of any model, with the taps there are; empty where it matches one."""
    if any(selects(pattern, tap) for tap in _every_tap()):
        return ""
    return (
        f"tap {brief(pattern)} matches no tap of any model; the taps are {EMBED}, {FINAL_NORM}, {LOGITS} and "
        f"block.N.POINT with one of the points {', '.join(BLOCK_POINTS)}"
    )


def _every_hop() -> tuple[Hop, ...]:
    """With the recipes that have a name; a glob for a recipe of somebody's own matches it by `file` or a star."""
    return (*standard_hops(), *quantised_hops(RECIPES))


def _every_tap() -> Iterator[str]:
    yield from (EMBED, FINAL_NORM, LOGITS)
    yield from (block_tap(block, point) for block in range(_BLOCKS) for point in BLOCK_POINTS)
