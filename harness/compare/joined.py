"""Comparisons of some hops each, put together to one of all hops. Pure, but for the noise floors it has measured once.

In: comparisons of the same inputs and taps. Out: a `Comparison`, the same as if all hops had been compared at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from harness.compare.noise import NoiseFloor
from harness.compare.traces import FLOAT32_RUNS, Comparison, TapReader, noise_floors
from harness.compare.value_range import ValueRange
from harness.names.stages import Hop


class KnownFloors:
    """The noise floors of the taps of a run, see `compare_traces`: they are the same for all hops."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[NoiseFloor | None], list[ValueRange | None]]] = {}

    def __call__(self, opened: Sequence[TapReader], tap: str) -> list[NoiseFloor | None]:
        if tap not in self._known:
            floors = noise_floors(opened, tap, FLOAT32_RUNS)
            self._known[tap] = floors, [of_input.range_of(tap) for of_input in opened]
        floors, ranges = self._known[tap]
        for of_input, found in zip(opened, ranges, strict=True):
            if found is not None:
                of_input.note_range(tap, found)
        return floors


def joined(
    parts: Sequence[Comparison], hops: Sequence[Hop], inputs: Sequence[str], stages: Sequence[str]
) -> Comparison:
    """hops and stages: all of the run, in the order of the pipeline. inputs: their ids in order."""
    if len(parts) == 1:
        return parts[0]
    at_hop = {hop.name: number for number, hop in enumerate(hops)}
    at_input = {item: number for number, item in enumerate(inputs)}
    rows = sorted(
        chain.from_iterable(part.rows for part in parts),
        key=lambda row: (at_input[row.input], row.order, at_hop[row.hop]),
    )
    texts = {one.stage: one for part in parts for one in part.text}
    compared = {hop.name for part in parts for hop in part.hops}
    every = [hop for hop in hops if hop.name in compared]
    logits = {name: found for part in parts for name, found in part.logits.items()}
    positions = {name: found for part in parts for name, found in part.logit_positions.items()}
    on_text = {name: found for part in parts for name, found in part.on_text.items()}
    return Comparison(
        rows,
        {hop.name: logits[hop.name] for hop in every if hop.name in logits},
        tuple(every),
        {hop.name: positions[hop.name] for hop in every if hop.name in positions},
        tuple(texts[stage] for stage in stages if stage in texts),
        {hop.name: on_text[hop.name] for hop in every if hop.name in on_text},
        families={name: family for part in parts for name, family in part.families.items()},
        steps=sorted(
            chain.from_iterable(part.steps for part in parts), key=lambda one: (at_input[one.input], at_hop[one.hop])
        ),
    )
