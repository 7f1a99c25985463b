"""The excess of one tap at each position of each input.

In: traces. Out: positions and excesses. An error that is not made everywhere shows here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.compare.noise import NoiseFloor, position_excess
from harness.compare.traces import FLOAT32_RUNS, TapReader, floor_of, noise_floors, spans_of, stats_over
from harness.names.stages import ORACLE, Hop
from harness.names.taps import LOCAL_SUFFIX

Each = list[tuple[int, float]]  # (position, excess there)


def comparable(reader: TapReader, stages: Sequence[str], tap: str) -> bool:
    """Whether all of these stages and the oracle have a tap, in one shape."""
    names = dict.fromkeys([*stages, ORACLE])
    if not all(reader.has(stage, tap) for stage in names):
        return False
    return len({reader.values(stage, tap).shape for stage in names}) == 1


def each_position(
    reader: TapReader, reference: str, candidate: str, tap: str, noise: NoiseFloor
) -> Iterator[tuple[int, float]]:
    """(position, excess there), where both sides computed it."""
    spans = spans_of(reader, tap, noise, reference, candidate)
    if not spans:
        return
    stats = stats_over(reader.values(reference, tap), reader.values(candidate, tap), spans)
    positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    values = position_excess(stats.squared_error, noise, positions)
    yield from zip(positions.tolist(), values.tolist(), strict=True)


def excess_of_tap(traces: Path, hop: Hop, tap: str, inputs: Sequence[str], local: bool = False) -> Mapping[str, Each]:
    """Of each input on which both sides of the hop have the tap.

    traces: folder with `<stage>/<input>/`. local: of the error that is made at the tap alone, where a local pass ran.
    """
    suffix = LOCAL_SUFFIX if local else ""
    reference, candidate = hop.judged_against, hop.candidate + suffix
    runs = [run + suffix for run in FLOAT32_RUNS]
    stages = {ORACLE, reference, candidate, *runs, *filter(None, (hop.unrounded,))}
    readers = [TapReader.of(traces, stages, item) for item in inputs]
    found = {}
    for reader, noise in zip(readers, noise_floors(readers, tap, runs), strict=True):
        if noise is not None and comparable(reader, (reference, candidate), tap):
            floor = noise if local else floor_of(hop, reader, tap, noise)
            found[reader.item] = list(each_position(reader, reference, candidate, tap, floor))
        reader.let_go()
    return found
