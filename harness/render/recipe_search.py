"""What a search for a recipe came to: in the terminal, and as a page with the curve of size against KL.

In: its record. Out: lines, or HTML. Nothing is computed but where a point stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.names.stages import FLOAT
from harness.plain import one_line
from harness.record.recipe_search import LayerCost, RecipeCandidate, RecipeSearch
from harness.render.console import STYLES, cells, line, new_table, wrapped
from harness.render.numbers import compared, number
from harness.render.page import render_page

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH, _HEIGHT = 860, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 14, 40
_DEAREST = 20  # layers of the table


@dataclass(frozen=True)
class CurvePoint:
    """A candidate on the chart, in its pixels."""

    candidate: RecipeCandidate
    x: float
    y: float
    label: bool  # whether its name stands beside it


@dataclass(frozen=True)
class CurveTick:
    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """The chart. budget: where the line of the budget lies, None for one that is off the chart."""

    points: Sequence[CurvePoint]
    x_ticks: Sequence[CurveTick]
    y_ticks: Sequence[CurveTick]
    budget_x: float | None
    budget_y: float | None
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM


def headline(found: RecipeSearch) -> str:
    """What was found, in a sentence."""
    taken, asked = found.taken, budget_words(found)
    if taken is None:
        said = f"no recipe of {len(found.candidates)} that were measured keeps {asked}"
        lowest = min((one.kl_mean for one in found.candidates if one.kl_mean is not None), default=None)
        if found.max_mb is not None:
            return f"{said}: the smallest file that they can make has about {number(found.least_mb)} MB"
        return f"{said}: the least was {compared(lowest)} nats"
    kind = "uniform" if taken.uniform else "mixed"
    return (
        f"{taken.name} ({kind}) keeps {asked}: {number(taken.mb)} MB of {number(found.float32_mb)}, "
        f"mean KL {compared(taken.kl_mean)} nats, {taken.flips} of {found.positions} top tokens changed"
    )


def budget_words(found: RecipeSearch) -> str:
    if found.max_kl is not None:
        return f"a mean KL of {found.max_kl:g} nats"
    return f"{found.max_mb:g} MB"


def layers_words(candidate: RecipeCandidate) -> str:
    """`120 dynamic_int8, 31 dynamic_int4_block32`."""
    names = {FLOAT: "float32"}
    most = sorted(candidate.layers.items(), key=lambda one: -one[1])
    return ", ".join(f"{count} {names.get(recipe, recipe)}" for recipe, count in most) or "-"


def print_search(found: RecipeSearch, page: Path, recipe: Path, judge: str, console: Console) -> None:
    """The winner, the table of what was measured, and where everything is. judge: the command that judges it."""
    style = STYLES["pass"] if found.taken is not None else STYLES["fail"]
    line(console, f"{'FOUND' if found.taken else 'NONE'}  {one_line(found.model)}", style=style)
    wrapped(console, headline(found))
    columns = [
        ("recipe", False),
        ("MB", True),
        ("KL mean", True),
        ("KL p99", True),
        ("changed", True),
        ("layers", False),
    ]
    table = new_table(f"Measured on XNNPACK, {found.positions} positions", columns, 10)
    for one in found.candidates:
        mark = "*" if one.name == found.winner else ""
        shown = (f"{one.name} {mark}".strip(), STYLES["pass"]) if mark else one.name
        figures = (number(one.mb), compared(one.kl_mean), compared(one.kl_p99), str(one.flips))
        table.add_row(*cells(shown, *figures, one.refused or layers_words(one)))
    console.print(table)
    if found.taken is not None:
        line(console, f"recipe  {recipe}")
        line(console, f"judge   {one_line(judge)}")
    line(console, f"page    {page}")


def page(found: RecipeSearch) -> str:
    """The page of a search."""
    return render_page(
        "recipe.html.j2",
        found=found,
        headline=headline(found),
        budget=budget_words(found),
        curve=curve_of(found),
        kept={one.name for one in found.candidates if found.keeps(one)},
        layers={one.name: layers_words(one) for one in found.candidates},
        dearest=dearest(found.costs),
        costs=len(found.costs),
        of_winner=layers_of_winner(found),
    )


def layers_of_winner(found: RecipeSearch) -> list[tuple[str, str, float | None, float | None]]:
    """(layer, recipe, its KL alone, MB) of the winner, in execution order; nothing where there is none."""
    taken = found.taken
    costs = {(one.layer, one.recipe): one for one in found.costs}
    each = [(layer, recipe, costs.get((layer, recipe))) for layer, recipe in (taken.recipes if taken else {}).items()]
    return [
        (layer, "float32" if recipe == FLOAT else recipe, cost.kl if cost else None, cost.bytes / 1e6 if cost else None)
        for layer, recipe, cost in each
    ]


def dearest(costs: Sequence[LayerCost]) -> list[LayerCost]:
    """The layers that cost most, under whatever recipe."""
    return sorted(costs, key=lambda one: math.inf if one.kl is None else one.kl, reverse=True)[:_DEAREST]


def curve_of(found: RecipeSearch) -> Curve | None:
    """None where nothing can be drawn: KL is on a logarithmic axis."""
    shown = [one for one in found.candidates if one.kl_mean is not None and one.kl_mean > 0]
    if not shown:
        return None
    sizes = [one.mb for one in shown]
    errors = [math.log10(one.kl_mean or 1) for one in shown]
    low, high = math.floor(min(errors)), max(math.ceil(max(errors)), math.floor(min(errors)) + 1)
    step = _step(max(sizes))
    first = math.floor(min(sizes) / step) * step
    last = max(math.ceil(max(sizes) / step) * step, first + step)

    def x(mb: float) -> float:
        return round(_LEFT + (mb - first) / max(last - first, step) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(exponent: float) -> float:
        return round(_TOP + (high - exponent) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    count = round((last - first) / step)
    budget_kl = None if found.max_kl is None else math.log10(found.max_kl)
    return Curve(
        [
            CurvePoint(one, x(one.mb), y(error), one.uniform or one.name == found.winner)
            for one, error in zip(shown, errors, strict=True)
        ],
        [CurveTick(x(first + i * step), f"{first + i * step:g}") for i in range(count + 1)],
        [CurveTick(y(exponent), f"1e{exponent}") for exponent in range(low, high + 1)],
        x(found.max_mb) if found.max_mb is not None and first <= found.max_mb <= last else None,
        y(budget_kl) if budget_kl is not None and low <= budget_kl <= high else None,
    )


def _step(largest: float) -> float:
    """Of the marks on an axis of sizes: 1, 2 or 5 times a power of ten, so that there are 5 to 12 of them."""
    rough = largest / 8
    power = 10 ** math.floor(math.log10(rough))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough))
