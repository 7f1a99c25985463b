"""The size of a fault that numbers do not show: computed in float64, over what float32 costs.

In: traces of the unbroken and of the broken model, both in float64. Out: the largest ratio at any tap.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from harness.bench.workbench import Bench
from harness.compare.noise import excess
from harness.compare.traces import FLOAT32_RUNS, TapReader, common_spans, noise_floors, stats_over
from harness.names.stages import ORACLE
from harness.store.trace import Trace


def largest_effect(bench: Bench, sound: Path, broken: Path) -> float:
    """The largest mean error of a tap over its noise floor; infinite where it is not a number."""
    inputs = [item.id for item in bench.prepared.inputs]
    opened = [TapReader.of(bench.sound, (ORACLE, *FLOAT32_RUNS), item) for item in inputs]
    pairs = [
        TapReader({"sound": Trace.open(sound / item), "broken": Trace.open(broken / item)}, item) for item in inputs
    ]
    largest = 0.0
    for tap in bench.prepared.taps:
        floors = noise_floors(opened, tap, FLOAT32_RUNS)
        for pair, noise in zip(pairs, floors, strict=True):
            if noise is None or not (pair.has("sound", tap) and pair.has("broken", tap)):
                continue
            spans = common_spans(pair.covered("sound", tap), pair.covered("broken", tap))
            positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
            stats = stats_over(pair.values("sound", tap), pair.values("broken", tap), spans)
            found = excess(stats.squared_error, noise, positions).whole
            largest = max(largest, math.inf if math.isnan(found) else found)
    return largest
