"""What the laws of a stage came to: those that rounding may bend are measured in what float32 costs there.

In: what `check_laws` left among the traces, and the traces of `hf` and `oracle`. Out: a `LawResult` for each law.

Two runs that should be the same but for rounding are two float32 computations of one thing: their distance, in the
noise floor of each tap, is an excess like that of a hop, and has the same limits. Where a file quantises the inputs of
its layers, a step of their grid belongs to the floor, as on a runtime's hop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.compare.noise import NoiseFloor, excess, with_grid
from harness.compare.traces import FLOAT32_RUNS, TapReader, common_spans, known_spans, noise_floors, stats_over
from harness.judge.rules import Rule, limits_of
from harness.laws.check import SIDES, LawCheck, laws_folder, read_checks
from harness.laws.laws import LAWS
from harness.names.stages import (
    BUILTIN,
    FAKEQUANT,
    FAKEQUANT_BUILTIN,
    FLOAT,
    HF,
    ORACLE,
    REAUTHORED,
    REFERENCE,
    Hop,
    named,
    split,
)
from harness.names.taps import UNROUNDED_SUFFIX
from harness.record.laws import LawResult, LawVerdict
from harness.store.trace import Trace

_LIMITED_AS = Hop(HF, REAUTHORED).name
_FIGURES = ("excess", "position_excess")
FloorsAt = Callable[[Sequence[TapReader], str], list[NoiseFloor | None]]


def _typical(opened: Sequence[TapReader], tap: str) -> list[NoiseFloor | None]:
    return noise_floors(opened, tap, FLOAT32_RUNS)


@dataclass(frozen=True)
class LawJudge:
    """traces: of all stages. model: as rules name it. floors_at: as `compare_traces` takes it."""

    traces: Path
    model: str
    rules: list[Rule]
    floors_at: FloorsAt = _typical

    def judged(self, stage: str, item: str) -> list[LawResult]:
        """The laws of a stage on an input. Raises FileNotFoundError where it has left no word of them."""
        checks = read_checks(self.traces / stage, item)
        if not any(check.outcome == "to-measure" for check in checks):
            return [_result(stage, check) for check in checks]
        grid = _grid_of(stage)
        beside = {grid, grid + UNROUNDED_SUFFIX} if grid else set()
        opened = TapReader.of(self.traces, {ORACLE, *FLOAT32_RUNS, *beside}, item)
        return [self._measured(stage, item, check, opened, grid) for check in checks]

    def _measured(self, stage: str, item: str, check: LawCheck, opened: TapReader, grid: str) -> LawResult:
        if check.outcome != "to-measure":
            return _result(stage, check)
        folder = laws_folder(self.traces / stage) / item / check.law
        one, other = (Trace.open(folder / side) for side in SIDES)
        nearest: tuple[float, LawResult] | None = None
        for tap in one.taps:
            found = self._tap(stage, check, tap, (one, other), self._floor(opened, tap, grid))
            if nearest is None or not found[0] <= nearest[0]:  # NaN is the nearest of all
                nearest = found
        opened.let_go()
        assert nearest is not None, "a trace that differs holds a tap"
        return nearest[1]

    def _floor(self, opened: TapReader, tap: str, grid: str) -> NoiseFloor | None:
        (noise,) = self.floors_at([opened], tap)
        unrounded = grid + UNROUNDED_SUFFIX
        if noise is None or not grid or not (opened.has(grid, tap) and opened.has(unrounded, tap)):
            return noise
        rounded, plain = opened.values(grid, tap), opened.values(unrounded, tap)
        return with_grid(noise, stats_over(rounded, plain, known_spans(noise)).squared_error)

    def _tap(
        self, stage: str, check: LawCheck, tap: str, sides: tuple[Trace, Trace], floor: NoiseFloor | None
    ) -> tuple[float, LawResult]:
        """(share of the limit, what the law came to at one tap)"""
        one, other = sides
        spans = common_spans(one.covered(tap), other.covered(tap)) if tap in other else []
        if floor is None or not spans:
            why = "what float32 costs there is not known" if floor is None else "the two runs share no position"
            return -1.0, _result(stage, check, "not run", f"{tap}: {why}")
        positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        error = stats_over(one.load(tap), other.load(tap), spans).squared_error
        over = excess(error, floor, positions)
        limits = limits_of(self.rules, self.model, _LIMITED_AS, tap, len(positions))
        values = {"excess": over.whole, "position_excess": over.worst}
        name, share = max(
            ((name, _share(values[name], limits.get(name, math.nan))) for name in _FIGURES), key=lambda pair: pair[1]
        )
        result = _result(stage, check, "holds" if share <= 1 else "broken")
        result.tap, result.position = tap, int(positions[over.worst_position])
        result.figure, result.limit = values[name], limits.get(name)
        if result.verdict == "broken":
            result.why = f"{name} {values[name]:.3g} > {limits[name]:g} at {tap}, worst at position {result.position}"
        return share, result


def with_inherited(laws: Sequence[LawResult], reference_of: Mapping[str, str]) -> list[LawResult]:
    """The results with the stage before that breaks the same law. reference_of: each stage's reference, by name."""
    broken = {(found.stage, found.law) for found in laws if found.verdict == "broken"}

    def first(stage: str, law: str) -> str:
        """The earliest stage on the way to this one that breaks the law without a break in it."""
        before = reference_of.get(stage, "")
        return (first(before, law) or before) if (before, law) in broken else ""

    return [
        found.model_copy(update={"inherited": first(found.stage, found.law)}) if found.verdict == "broken" else found
        for found in laws
    ]


def none_checked(stage: str, verdict: LawVerdict, why: str) -> list[LawResult]:
    """The laws of a stage of which none was checked."""
    return [LawResult(stage=stage, law=law.name, verdict=verdict, why=why) for law in LAWS]


def _result(stage: str, check: LawCheck, verdict: LawVerdict | None = None, why: str = "") -> LawResult:
    """verdict: none for what was told already."""
    if verdict is not None:
        return LawResult(stage=stage, law=check.law, verdict=verdict, why=why)
    assert check.outcome != "to-measure", "it is measured"
    told = LawResult(stage=stage, law=check.law, verdict=check.outcome, why=check.why)
    told.tap, told.position = check.tap, check.position
    told.figure = 0.0 if check.outcome == "holds" and check.law in _BENDING else None
    return told


def _grid_of(stage: str) -> str:
    """The fake-quantised stage that says what one step of the grid of a quantised file's inputs costs."""
    base, recipe = split(stage)
    return "" if recipe == FLOAT else named(FAKEQUANT_BUILTIN if base in _BUILTIN_GRID else FAKEQUANT, recipe)


_BENDING = frozenset(law.name for law in LAWS if law.bends)
_BUILTIN_GRID = frozenset({BUILTIN, REFERENCE, FAKEQUANT_BUILTIN})


def _share(value: float, limit: float) -> float:
    """Of its limit; infinite for NaN, and for what nothing limits, 0."""
    if math.isnan(limit):
        return 0.0
    return math.inf if math.isnan(value) else value / limit if limit else math.inf
