"""Compare the traces of a run, hop by hop and tap by tap, one tap in memory at a time.

In: trace folders per stage and input. Out: a `TapRow` per input, hop and tap and, per hop, its logits figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from harness.compare.constant_taps import without_constant_taps
from harness.compare.filling import fill_absent, fill_judgement, fill_missing
from harness.compare.logits import PERCENTILES, LogitPositions, LogitTally
from harness.compare.metrics import (
    LogitStats,
    PositionStats,
    concat,
    logit_stats,
    position_stats,
    ranged_stats,
    summarise,
)
from harness.compare.noise import Excess, NoiseFloor, excess, position_excess, with_grid, with_typical
from harness.compare.steps import StepTally
from harness.compare.value_range import ValueRange, fill_range, joined
from harness.judge.rules import Judgement, Rule, judge
from harness.names.codes import TapCode
from harness.names.coverage import SAMPLED_POSITIONS, Absence, checked
from harness.names.sample import Sample
from harness.names.stages import HF, ORACLE, Floor, Hop, hops_of, recipe_of_hop
from harness.names.taps import LOGITS, split_tap
from harness.record.record import Logits
from harness.record.steps import DecodeSteps
from harness.record.tap_row import TapRow
from harness.record.text import StagePerplexity, TextFigures
from harness.store.trace import NOISE_SAMPLES, Trace, let_go, sample

Array = np.ndarray[Any, Any]
_BLOCK_BYTES = 1 << 24
# The figures of a row that tolerance rules may limit; those of the logits come beside them.
_JUDGED = (
    "max_abs_err",
    "mean_abs_err",
    "rel_l2",
    "cosine",
    "snr_db",
    "excess",
    "position_excess",
    "total_excess",
    "noise_floor",
    "nan_count",
    "inf_count",
)
FLOAT32_RUNS = tuple(sample(Path(HF), order).name for order in range(NOISE_SAMPLES))


@dataclass(frozen=True)
class Comparison:
    """logits, logit_positions, on_text and budgets are by hop. text: every stage that ran the text that is measured.

    budgets: the judgement of what is of no single input. families: of each recipe's file.
    """

    rows: list[TapRow]
    logits: dict[str, Logits]
    hops: tuple[Hop, ...] = ()  # those whose stages ran
    logit_positions: Mapping[str, Sequence[LogitPositions]] = field(default_factory=dict)
    text: Sequence[StagePerplexity] = ()
    on_text: Mapping[str, TextFigures] = field(default_factory=dict)
    budgets: Mapping[str, Judgement] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[DecodeSteps] = ()


def compare_traces(
    traces: Path,
    stages: set[str],
    inputs: list[str],
    taps: list[str],
    model: str,
    rules: list[Rule],
    why_missing: Callable[[str, str], Absence],
    hops: Sequence[Hop] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    floors_at: Callable[[Sequence[TapReader], str], list[NoiseFloor | None]] | None = None,
    answers: Mapping[str, Sequence[int]] = MappingProxyType({}),
    families: Mapping[str, str] = MappingProxyType({}),
    decoded: Mapping[str, int] = MappingProxyType({}),
    samples: Mapping[str, Sample] = MappingProxyType({}),
) -> Comparison:
    """Every tap of every input on every hop whose stages ran.

    traces: folder with `<stage>/<input>/`. why_missing: (stage, tap) -> why its trace lacks the tap or positions of it.
    hops: the standard ones where none are given.
    A tap that cannot be compared is a row with verdict `missing`. floors_at: the noise floor of a
    tap on each input, where these inputs alone are not to say what is typical. answers: the tokens of each input that
    comes from text. families: of each recipe's file, see `harness/names/recipe_families.py`. decoded: where in each
    input decode begins. samples: the positions that a stage has to keep of each input of which it keeps some.
    """
    standard = [hop for hop in hops_of(tuple(stages)) if hop.floor is Floor.NOISE]
    present = standard if hops is None else [hop for hop in hops if set(hop.stages) <= stages]
    tallies, steps = {hop: LogitTally(answers) for hop in present}, StepTally(decoded)
    rows: list[TapRow] = []
    beside = {*FLOAT32_RUNS, *(hop.unrounded for hop in present if hop.unrounded)}
    opened = [TapReader.of(traces, stages | beside, item, samples.get(item)) for item in inputs]
    for order, tap in enumerate(taps):
        progress(order, len(taps))
        floors = floors_at(opened, tap) if floors_at else noise_floors(opened, tap, FLOAT32_RUNS)
        for item, of_input, noise in zip(inputs, opened, floors, strict=True):
            for hop in present:
                row = TapRow(model=model, input=item, hop=hop.name, tap=tap, block=_block(tap), order=order)
                fill_range(row, of_input.range_of(tap))
                tally, family = tallies[hop], families.get(recipe_of_hop(hop.name), "")
                _compare(row, of_input, noise, hop, rules, tally, steps, why_missing, family)
                rows.append(row)
            of_input.let_go()
    rows = without_constant_taps(rows)
    rows.sort(key=lambda row: (inputs.index(row.input), row.order))
    logits = {hop.name: tally.result() for hop, tally in tallies.items() if tally.kl}
    each = {hop.name: tally.each for hop, tally in tallies.items()}
    return Comparison(rows, logits, tuple(present), each, families=families, steps=steps.result(each))


class TapReader:
    """The traces of all stages on one input, and the tap that is looked at just now, each mapped once."""

    def __init__(self, traces: Mapping[str, Trace | None], item: str, sample: Sample | None = None) -> None:
        """sample: the positions that every stage has to keep of the input; None: all."""
        self.item, self.sample = item, sample
        self._traces = {stage: trace for stage, trace in traces.items() if trace is not None}
        self._tap = ""
        self._values: dict[str, Array] = {}
        self._ranges: dict[str, ValueRange] = {}

    @classmethod
    def of(cls, traces: Path, stages: Iterable[str], item: str, sample: Sample | None = None) -> TapReader:
        """Of the stages that finished the trace of this input."""
        return cls({name: _open_trace(traces / name / item) for name in stages}, item, sample)

    def has(self, stage: str, tap: str) -> bool:
        return stage in self._traces and tap in self._traces[stage]

    def values(self, stage: str, tap: str) -> Array:
        """`[1, time, ...]` of a tap; the tap before it is let go."""
        if tap != self._tap:
            self._tap, self._values = tap, {}
        if stage not in self._values:
            self._values[stage] = self._traces[stage].load(tap)
        return self._values[stage]

    def let_go(self) -> None:
        for values in self._values.values():
            let_go(values)
        self._tap, self._values = "", {}

    def note_range(self, tap: str, found: ValueRange) -> None:
        self._ranges[tap] = found

    def range_of(self, tap: str) -> ValueRange | None:
        """How large the numbers of a tap get in the oracle; None where no noise floor was."""
        return self._ranges.get(tap)

    def covered(self, stage: str, tap: str) -> list[tuple[int, int]]:
        return self._traces[stage].covered(tap)

    def is_sampled(self, tap: str) -> bool:
        """Whether a tap of the input is kept at some positions only."""
        return self.sample is not None and self.sample.holds(tap)

    def is_whole(self, stage: str, tap: str) -> bool:
        """Whether a stage has every position of the input that it has to keep."""
        trace = self._traces[stage]
        if self.sample is None or not self.is_sampled(tap) or trace.is_whole(tap):
            return trace.is_whole(tap)
        return bool(np.isin(self.sample.positions, trace.positions(tap)).all())

    def derived(self, tap: str, *stages: str) -> bool:
        return any(self._traces[stage].how(tap) == "derived" for stage in stages)


def _open_trace(folder: Path) -> Trace | None:
    try:
        return Trace.open(folder)
    except FileNotFoundError:
        return None


def noise_floors(opened: Sequence[TapReader], tap: str, runs: Sequence[str]) -> list[NoiseFloor | None]:
    """The noise floor of a tap on each input; None where `oracle` or the first of the float32 runs lacks it."""
    floors = {
        number: floor
        for number, taps in enumerate(opened)
        if taps.has(ORACLE, tap) and taps.has(runs[0], tap) and (floor := _floor(taps, tap, runs)) is not None
    }
    for taps in opened:
        taps.let_go()
    known = dict(zip(floors, with_typical(list(floors.values())), strict=True)) if floors else {}
    return [known.get(number) for number in range(len(opened))]


def _compare(
    row: TapRow,
    taps: TapReader,
    noise: NoiseFloor | None,
    hop: Hop,
    rules: list[Rule],
    tally: LogitTally,
    steps: StepTally,
    why_missing: Callable[[str, str], Absence],
    family: str,
) -> None:
    """Fill the row of a tap on a hop: compared and judged, or why it is missing, or fails without a comparison."""
    reference, candidate = hop.stages
    lacking = next((stage for stage in (reference, candidate, ORACLE) if not taps.has(stage, row.tap)), None)
    if lacking is not None or noise is None:
        return fill_missing(row, lacking or HF, why_missing)
    spans = spans_of(taps, row.tap, noise, reference, candidate)
    partly = next((stage for stage in (reference, candidate, ORACLE, HF) if not taps.is_whole(stage, row.tap)), None)
    if not spans:
        return fill_missing(row, partly or candidate, why_missing)
    values = taps.values(reference, row.tap), taps.values(candidate, row.tap), taps.values(ORACLE, row.tap)
    if not values[0].shape == values[1].shape == values[2].shape:
        row.verdict, row.broken, row.why = "fail", TapCode.SHAPES_DIFFER.value, _shapes(*values)
        return None
    floor = floor_of(hop, taps, row.tap, noise)
    positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    scale, each = _fill_figures(row, *values, spans, floor, positions, against_oracle=hop.judged_against == ORACLE)
    row.noise_floor = noise.whole  # of float32 alone
    figures = {name: getattr(row, name) for name in _JUDGED} | {"scale": scale}
    if hop.by_snr:  # four bits or eight: what float32 costs does not measure them
        row.excess = row.position_excess = row.total_excess = math.nan
    if row.tap == LOGITS:
        figures |= _logit_figures(row, *values[:2], taps, spans, tally, hop.unrounded)
    row.how = "derived" if taps.derived(row.tap, reference, candidate) else "read"
    row.positions = positions.size
    fill_judgement(row, judge(rules, row.model, hop.name, row.tap, row.positions, figures, family))
    if not hop.by_snr:
        steps.add(row, positions, each)
    if taps.is_sampled(row.tap):
        row.absence = SAMPLED_POSITIONS
    if partly is not None and row.verdict == "pass":
        absent = checked(why_missing(partly, row.tap), partly, row.tap)
        if not absent.reason:
            why = f"compared at {row.positions} of {values[2].shape[1]} positions: {absent.why}"
            fill_absent(row, absent._replace(why=why))
    return None


def floor_of(hop: Hop, taps: TapReader, tap: str, noise: NoiseFloor) -> NoiseFloor:
    """What a hop's errors are measured in at a tap."""
    if not hop.unrounded or not taps.has(hop.unrounded, tap):
        return noise
    rounded, plain = taps.values(hop.reference, tap), taps.values(hop.unrounded, tap)
    return with_grid(noise, stats_over(rounded, plain, known_spans(noise)).squared_error)


def _shapes(*values: Array) -> str:
    return "shapes differ: {} against {}, oracle {}".format(*("x".join(map(str, array.shape)) for array in values))


def _block(tap: str) -> int:
    block = split_tap(tap)[0]
    return -1 if block is None else block


def common_spans(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> list[slice]:
    """Stretches of positions that both sides cover."""
    spans = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return [slice(start, stop) for start, stop in sorted(spans) if start < stop]


def spans_of(taps: TapReader, tap: str, noise: NoiseFloor, *stages: str) -> list[slice]:
    """Stretches of positions that stages cover, and where it is known what float32 costs."""
    spans = [(span.start, span.stop) for span in known_spans(noise)]
    for stage in stages:
        spans = [(span.start, span.stop) for span in common_spans(spans, taps.covered(stage, tap))]
    return [slice(*span) for span in spans]


def known_spans(noise: NoiseFloor) -> list[slice]:
    """Stretches of positions where it is known what float32 costs."""
    if noise.at is None:
        return [slice(0, len(noise.norms))]
    starts = np.flatnonzero(np.diff(noise.at, prepend=-2) > 1)
    return [slice(int(part[0]), int(part[-1]) + 1) for part in np.split(noise.at, starts[1:])]


def stats_over(reference: Array, candidate: Array, spans: list[slice]) -> PositionStats:
    parts = [position_stats(reference[:, block], candidate[:, block]) for block in blocks(spans, reference, candidate)]
    return parts[0] if len(parts) == 1 else concat(parts)


def _floor(taps: TapReader, tap: str, names: Sequence[str]) -> NoiseFloor | None:
    """What float32 costs at a tap, by each float32 run of the HF model: its error against the oracle.

    None where they share no position. Where they do not share all of them, it is known at some.
    """
    oracle = taps.values(ORACLE, tap)
    first, *others = [stage for stage in names if taps.has(stage, tap)]
    shared = taps.covered(ORACLE, tap)
    for stage in (first, *others):
        shared = [(span.start, span.stop) for span in common_spans(shared, taps.covered(stage, tap))]
    spans = [slice(*span) for span in shared]
    if not spans:
        return None
    stats, found = _ranged_over(oracle, taps.values(first, tap), spans)
    taps.note_range(tap, found)
    floor = NoiseFloor.of(stats, *(stats_over(oracle, taps.values(stage, tap), spans) for stage in others))
    at = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    return floor if len(at) == oracle.shape[1] else floor.spread(at, oracle.shape[1])


def _ranged_over(reference: Array, candidate: Array, spans: list[slice]) -> tuple[PositionStats, ValueRange]:
    """`stats_over`, and the range of the reference's numbers."""
    pieces = blocks(spans, reference, candidate)
    parts, ranges = zip(*(ranged_stats(reference[:, piece], candidate[:, piece]) for piece in pieces), strict=True)
    return concat(parts), joined(ranges)


def blocks(spans: list[slice], *values: Array) -> Iterator[slice]:
    """The spans in pieces of bounded size. After each piece the arrays leave memory again, so that
    logits over a large vocabulary and a long input cost no more of it than a short one."""
    row_bytes = max(array[:, :1].nbytes for array in values)
    rows = max(1, _BLOCK_BYTES // max(1, row_bytes))
    for span in spans:
        for start in range(span.start, span.stop, rows):
            yield slice(start, min(start + rows, span.stop))
            if rows < span.stop - span.start:
                for array in values:
                    let_go(array)


def _fill_figures(
    row: TapRow,
    reference: Array,
    candidate: Array,
    oracle: Array,
    spans: list[slice],
    noise: NoiseFloor,
    positions: Array,
    *,
    against_oracle: bool,
) -> tuple[float, Array]:
    """Fill a row with its figures. Returns the root mean square of the reference's values, and the excess of each
    position.

    positions: those of the spans. against_oracle: whether the excess is that of the error against the oracle.
    """
    stats = stats_over(reference, candidate, spans)
    total = stats_over(oracle, candidate, spans)
    overall: Excess = excess(total.squared_error, noise, positions)
    over = overall if against_oracle else excess(stats.squared_error, noise, positions)
    summary = summarise(stats)
    row.shape, row.dtype = "x".join(map(str, candidate.shape)), candidate.dtype.name
    row.max_abs_err, row.mean_abs_err = summary.max_abs_err, summary.mean_abs_err
    row.rel_l2, row.cosine, row.snr_db = summary.rel_l2, summary.cosine, summary.snr_db
    row.noise_floor, row.total_excess = noise.whole, overall.whole
    row.excess, row.position_excess = over.whole, over.worst
    row.worst_position = int(positions[over.worst_position])
    # NaN in the oracle would void the noise floor, so it counts as well.
    row.nan_count = max(summary.nan_count, int(total.nan_count.sum()))
    row.inf_count = max(summary.inf_count, int(total.inf_count.sum()))
    error = total if against_oracle else stats
    each = position_excess(error.squared_error, noise, positions)
    return math.sqrt(stats.squared_reference.sum() / summary.elements), each


def _logit_figures(
    row: TapRow,
    reference: Array,
    candidate: Array,
    taps: TapReader,
    spans: list[slice],
    tally: LogitTally,
    unrounded: str,
) -> dict[str, float]:
    """unrounded: where the same logits without the rounding of inputs lie, if anywhere: a flip within it is none."""
    oracle = taps.values(ORACLE, LOGITS)
    singles = [taps.values(stage, LOGITS) for stage in FLOAT32_RUNS if taps.has(stage, LOGITS)]
    parts = [logit_stats(reference[:, block], candidate[:, block]) for block in blocks(spans, reference, candidate)]
    noise = np.max([stats_over(oracle, values, spans).max_abs_err for values in singles], axis=0)
    if unrounded and taps.has(unrounded, LOGITS):
        noise = np.maximum(noise, stats_over(reference, taps.values(unrounded, LOGITS), spans).max_abs_err)
    joined = LogitStats(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in LogitStats.__dataclass_fields__}
    )
    positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    figures = tally.add(taps.item, positions, joined, noise)
    row.kl_mean, row.kl_p50, row.kl_p95, row.kl_p99 = (figures[name] for name in ("kl_mean", *PERCENTILES))
    row.answer_flips = int(figures["answer_flips"]) if "answer_flips" in figures else None
    return figures
