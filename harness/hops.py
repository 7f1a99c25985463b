"""Hops: which there are, which of them a run has, and whether a glob of a tolerance rule can match any.

In: the stages of a run, or a glob. Out: pairs of stages; what is wrong with a glob, in words. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from harness.plain import brief
from harness.recipes import BUILTIN, KERNELS, RECIPES, REFERENCE, XNNPACK, kernel_hops, named
from harness.taps import BLOCK_POINTS, EMBED, FINAL_NORM, LOGITS, block_tap

STANDARD_HOPS: tuple[tuple[str, str], ...] = (
    ("hf", "reauthored"),
    ("reauthored", XNNPACK),
    ("reauthored", BUILTIN),
)
_BLOCKS = 1000  # more than any model has


def hops_of(stages: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The hops of a run of these stages."""
    return (*((a, b) for a, b in STANDARD_HOPS if a in stages and b in stages), *kernel_hops(stages))


def selects(pattern: str, text: str) -> bool:
    """Whether a glob of a rule matches a model, hop or tap."""
    # Hops hold brackets (`tflite-xnnpack[dynamic_int8]`) that a glob would read as a set of characters.
    return pattern in ("*", text) or fnmatchcase(text, pattern)


def no_such_hop(pattern: str) -> str:
    """Why a glob matches no hop that a run can have, with the hops there are; empty where it matches one."""
    quantised = kernel_hops(tuple(named(kernel, recipe) for recipe in RECIPES for kernel in KERNELS))
    if any(selects(pattern, f"{a}->{b}") for a, b in (*STANDARD_HOPS, *quantised)):
        return ""
    kernels = (f"{BUILTIN}[RECIPE]->{other}[RECIPE]" for other in (XNNPACK, REFERENCE))
    standard = ", ".join(f"{a}->{b}" for a, b in STANDARD_HOPS)
    return (
        f"hop {brief(pattern)} matches no hop of any run; the hops are {standard}, "
        f"and with --quantize {' and '.join(kernels)} (a bracket in a glob is written [[])"
    )


def no_such_tap(pattern: str) -> str:
    """Why a glob matches no tap of any model, with the taps there are; empty where it matches one."""
    if any(selects(pattern, tap) for tap in _every_tap()):
        return ""
    return (
        f"tap {brief(pattern)} matches no tap of any model; the taps are {EMBED}, {FINAL_NORM}, {LOGITS} and "
        f"block.N.POINT with one of the points {', '.join(BLOCK_POINTS)}"
    )


def _every_tap() -> Iterator[str]:
    yield from (EMBED, FINAL_NORM, LOGITS)
    yield from (block_tap(block, point) for block in range(_BLOCKS) for point in BLOCK_POINTS)
