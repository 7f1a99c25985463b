"""The error that is introduced at a tap: its local trace against the reference whose values went into it.

In: local traces and the traces they were computed from. Out: a local excess per input, hop and tap, put into the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from harness.compare.noise import Excess, Floats, NoiseFloor, excess, position_excess
from harness.compare.traces import FLOAT32_RUNS, TapReader, noise_floors, spans_of, stats_over
from harness.judge.rules import Rule, judge_local
from harness.names.stages import ORACLE, Hop, recipe_of_hop
from harness.names.taps import LOCAL_SUFFIX
from harness.record.tap_row import TapRow

TapKey = tuple[str, str, str]  # input, hop, tap


def local_errors(traces: Path, hops: Sequence[Hop], inputs: Sequence[str], taps: Iterable[str]) -> dict[TapKey, Excess]:
    """The local excess wherever both sides of it were traced.

    The error of a hop's candidate, computed from the values of its reference, against that reference; on the first hop
    against `oracle`. Its unit is what float32 costs between one tap and the next: the error of `hf`, computed from the
    values of `oracle`.
    """
    runs = [run + LOCAL_SUFFIX for run in FLOAT32_RUNS]
    pairs = {hop.name: (hop.judged_against, hop.candidate + LOCAL_SUFFIX) for hop in hops}
    grids = {hop.name: hop.unrounded for hop in hops if hop.unrounded}
    stages = {ORACLE, *runs, *grids.values(), *(name for pair in pairs.values() for name in pair)}
    opened = [TapReader.of(traces, stages, item) for item in inputs]
    found: dict[TapKey, Excess] = {}
    taps = list(taps)
    whole = [{hop for hop, pair in pairs.items() if _is_cut(of_input, pair[1], taps)} for of_input in opened]
    for tap in taps:
        floors = noise_floors(opened, tap, runs)
        for item, of_input, noise, cut in zip(inputs, opened, floors, whole, strict=True):
            for hop in (hop for hop in pairs if hop in cut):
                error = _error(of_input, *pairs[hop], tap, noise, grids.get(hop, ""))
                if error is not None:
                    found[item, hop, tap] = error
            of_input.let_go()
    return found


def _is_cut(taps: TapReader, candidate: str, wanted: Sequence[str]) -> bool:
    """Whether a candidate has every tap, probabilities inside a kernel aside.

    Where it lacks one, nothing of the reference takes that one's place, and the taps after it carry errors of others.
    """
    return all(taps.has(candidate, tap) or tap.endswith("attn.probs") for tap in wanted)


def _error(
    taps: TapReader, reference: str, candidate: str, tap: str, noise: NoiseFloor | None, unrounded: str
) -> Excess | None:
    """unrounded: the stage that says what the steps of the input's grid cost, if there is one."""
    if noise is None or not (taps.has(reference, tap) and taps.has(candidate, tap)):
        return None
    spans = spans_of(taps, tap, noise, reference, candidate)
    pair = taps.values(reference, tap), taps.values(candidate, tap)
    if not spans or pair[0].shape != pair[1].shape:
        return None
    positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    squared = stats_over(*pair, spans).squared_error
    if unrounded and taps.has(unrounded, tap):
        steps = stats_over(pair[0], taps.values(unrounded, tap), spans).squared_error
        squared, positions = _without_a_tie(squared, steps, noise, positions)
    return excess(squared, noise, positions)


def _without_a_tie(squared: Floats, steps: Floats, noise: NoiseFloor, positions: Floats) -> tuple[Floats, Floats]:
    """Without the worst position, where a number on the very edge between two steps explains it.

    A runtime and the definition may round such a number to two sides. That shows at one position of a tap, and is no
    more than what the rounding of all inputs up to there costs (steps: squared, per position); whatever is at two
    positions is none. Nor is the last one: the one step of decode, whose kernels are others, may be all that shows.
    """
    worst = int(np.argmax(position_excess(squared, noise, positions)))
    if worst == len(positions) - 1 or not squared[worst] <= steps[worst]:
        return squared, positions
    return np.delete(squared, worst), np.delete(positions, worst)


def with_local(
    rows: Iterable[TapRow],
    errors: Mapping[TapKey, Excess],
    rules: list[Rule],
    families: Mapping[str, str] = MappingProxyType({}),
) -> list[TapRow]:
    """The rows with what was introduced at each tap, judged once more by the rule that judged the tap.

    families: of each recipe's file, as `compare_traces` was told.

    A tap that passes, or is missing, may fail by it. A tap that is missing never passes by it.
    """
    return [
        _with_error(row, errors.get((row.input, row.hop, row.tap)), rules, families.get(recipe_of_hop(row.hop), ""))
        for row in rows
    ]


def _with_error(row: TapRow, error: Excess | None, rules: list[Rule], family: str) -> TapRow:
    if error is None or row.positions is None or not math.isnan(row.local_excess):
        return row  # no local pass, nothing compared, or judged before
    # NaN says that no local pass ran: what is not a number counts as infinite.
    whole, worst = (math.inf if math.isnan(value) else value for value in (error.whole, error.worst))
    figures = {"local_excess": whole, "local_position_excess": worst}
    judgement = judge_local(rules, row.model, row.hop, row.tap, row.positions, figures, family)
    verdict, rule, broken, why = row.verdict, row.rule, row.broken, row.why
    if judgement.verdict == "fail":  # a pass says nothing for what is missing: a constant tap agrees locally as well
        if row.verdict == "missing":  # why it was no longer holds: something was compared, and differs
            rule, broken, why = judgement.rule, judgement.codes, judgement.why
        else:
            broken = ", ".join(filter(None, (row.broken, judgement.codes)))
            why = "; ".join(filter(None, (row.why, judgement.why)))
        verdict = "fail"
    return replace(
        row,
        local_excess=whole,
        local_position_excess=worst,
        local_excess_limit=judgement.limits.get("local_excess", math.nan),
        local_position_excess_limit=judgement.limits.get("local_position_excess", math.nan),
        verdict=verdict,
        rule=rule,
        broken=broken,
        why=why,
    )
