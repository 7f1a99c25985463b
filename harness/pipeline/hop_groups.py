"""Hops that can be compared as soon as their stages have ended, while other stages run: those of one file.

In: the stages of a run. Out: groups. Pure, and imports nothing that computes.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.names.stages import FLOAT, HF, ORACLE, Hop, hops_of, named, recipe_of_hop


@dataclass(frozen=True)
class HopGroup:
    """The hops of a recipe's file. stages: what comparing them needs."""

    recipe: str
    hops: tuple[Hop, ...]
    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        return named("compare", self.recipe)


def hop_groups(stages: tuple[str, ...]) -> list[HopGroup]:
    """The hops of a run by the recipe of their files, those of no quantised file first."""
    hops = hops_of(stages)
    groups = []
    for recipe in dict.fromkeys([FLOAT, *(recipe_of_hop(hop.name) for hop in hops)]):
        own = tuple(hop for hop in hops if recipe_of_hop(hop.name) == recipe)
        needed = {ORACLE, HF, *(stage for hop in own for stage in hop.stages)}
        if own:
            groups.append(HopGroup(recipe, own, tuple(stage for stage in stages if stage in needed)))
    return groups
