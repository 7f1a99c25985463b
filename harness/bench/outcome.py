"""What a run would say of a model that was broken on purpose: its traces compared and judged, without a record.

In: traces, and the prepared model that they are of. Out: an `Outcome`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.compare.local import local_errors, with_local
from harness.compare.traces import compare_traces
from harness.jobs.prepared import Prepared
from harness.judge.rules import load_rules
from harness.locate.faults import locate, summarise_hop
from harness.names.coverage import Absence
from harness.names.stages import ORACLE, hops_of
from harness.pipeline.comparison import samples_of
from harness.pipeline.in_sequence import in_sequence
from harness.pipeline.owned_faults import not_finite_stages
from harness.record.record import Fault, HopResult
from harness.record.tap_row import taps_frame


@dataclass(frozen=True)
class Outcome:
    """What a run would put into its record. not_finite: stages whose values at the fault are NaN or infinite."""

    frame: pd.DataFrame
    hops: dict[str, HopResult]
    fault: Fault | None
    faults: list[Fault]
    not_finite: list[str]

    @property
    def verdicts(self) -> dict[str, str]:
        return {name: hop.verdict for name, hop in self.hops.items()}

    def worst(self, hop: str, column: str = "excess") -> float:
        """The largest figure of a hop; a NaN counts as infinite."""
        rows = self.frame[(self.frame["hop"] == hop) & (self.frame["verdict"] != "missing")]
        return float(rows[column].fillna(math.inf).max())


def judged(
    traces: Path, prepared: Prepared, stages: Sequence[str], why_missing: Callable[[str, str], Absence]
) -> Outcome:
    """The hops of some stages, compared on every input of the model and judged. traces: with those of the oracle."""
    inputs, rules, hops = [item.id for item in prepared.inputs], load_rules(), hops_of(tuple(stages))
    known = {ORACLE, *stages}
    compared = compare_traces(
        traces,
        known,
        inputs,
        prepared.taps,
        prepared.model,
        rules,
        why_missing,
        hops,
        samples=samples_of(prepared),
    )
    errors = local_errors(traces, compared.hops, inputs, prepared.taps)
    frame = taps_frame(with_local(compared.rows, errors, rules))
    found = {
        hop.name: summarise_hop(hop, frame, prepared.taps, compared.logits.get(hop.name), prepared.coverage[hop.name])
        for hop in hops
    }
    faults = in_sequence(locate(list(found.values()), frame, prepared.modules, {}), frame, prepared, traces)
    not_finite = not_finite_stages(faults[0], frame, traces) if faults else []
    return Outcome(frame, found, faults[0] if faults else None, faults, not_finite)


def figures(outcome: Outcome, hop: str, tap: str) -> Mapping[str, float]:
    """The largest excess and position excess of a tap on a hop."""
    rows = outcome.frame[(outcome.frame["hop"] == hop) & (outcome.frame["tap"] == tap)]
    return {name: float(rows[name].fillna(math.inf).max()) for name in ("excess", "position_excess")}
