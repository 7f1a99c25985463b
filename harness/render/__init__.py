"""Views of a run. In: the record and its taps. Out: text, HTML, JUnit, Model Explorer files.

A renderer lays out what the record says and computes no number and no verdict of its own. What
several renderers say in the same words stands here: numbers, groups of missing taps, the headline,
what comes nearest to its limit, and what to do next.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.judge.rules import floor_alone
from harness.locate.owners import is_given
from harness.names.stages import known_stage, runs_file
from harness.names.taps import split_tap
from harness.plain import clean as clean
from harness.plain import one_line as one_line
from harness.record.record import FirstFault, HopResult, KnownDefect, Record, Worst
from harness.render.limits import LOCAL, NOISE_FLOOR, Figure, limit_of, nearest, share

if TYPE_CHECKING:
    import pandas as pd

# A word of a sentence, and not a name, which has underscores, dots or a colon.
_PLAIN_WORD = re.compile(r"[a-z][a-z'-]*,?(?=\s|$)")
_WORST_FIRST = ("fail", "missing", "pass")
_FIGURE_NAMES = {
    "excess": "excess",
    "position_excess": "position",
    "local_excess": "local",
    "local_position_excess": "local position",
    "noise_floor": "noise floor",
}


@dataclass(frozen=True)
class MissingGroup:
    """Taps that are missing for one reason. `patterns` are names with `*` for the block number."""

    count: int
    patterns: tuple[str, ...]
    why: str


def number(value: object) -> str:
    """Three significant digits, as an engineer writes them; `-` for nothing, `NaN` and `inf` as they are."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    real = float(value)  # type: ignore[arg-type]
    if math.isnan(real):
        return "NaN"
    if math.isinf(real):
        return "inf" if real > 0 else "-inf"
    if real == int(real) and abs(real) < 1e6:
        return str(int(real))
    if 1e-2 <= abs(real) < 999.5:
        return f"{real:#.3g}".rstrip(".")
    return f"{real:.2e}"


def percent(share: float | None) -> str:
    """A share as a percentage, cut and not rounded: 99.98 % of the taps is not `100 %`."""
    if share is None or math.isnan(share):
        return "-"
    tenths = math.floor(share * 1000 + 1e-9)
    return f"{tenths // 10} %" if tenths % 10 == 0 else f"{tenths / 10:.1f} %"


def is_nothing(value: object) -> bool:
    """True for None and for NaN, which a parquet column makes of it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def tap_value(row: Mapping[str, Any], column: str) -> float | str | None:
    """A number of a tap row, honest about what is not one.

    A missing tap has no numbers: None; nor has one whose shapes differ, of which nothing was counted. A
    tap that was compared and holds NaN or Inf says `NaN`. Every compared tap has a `max_abs_err`, so where
    that is nothing it was NaN before a file made it null; any other number may be undefined there (no
    excess without a noise floor): None.
    """
    value = row[column]
    if row["verdict"] == "missing" or is_nothing(row["nan_count"]):
        return None
    if not is_nothing(value):
        return float(value)
    holds_nan = any(not is_nothing(row[name]) and row[name] > 0 for name in ("nan_count", "inf_count"))
    return "NaN" if holds_nan or is_nothing(row["max_abs_err"]) else None


def sort_key(row: Mapping[str, Any]) -> float:
    """Worst first under `reverse=True`: by the share of its limit that a tap uses up.

    NaN of a compared tap stands above everything, a missing tap below.
    """
    used = share(row)
    return -math.inf if used is None else used


def of_limit(value: str, limit: float | None) -> str:
    """`3.20 of 4`: a figure beside its limit, where it has one."""
    return value if is_nothing(limit) else f"{value} of {number(limit)}"


def figure_text(figure: Figure | None) -> str:
    """`excess 3.20 of 4`: a figure with its name and its limit."""
    if figure is None:
        return "excess -"
    return f"{_FIGURE_NAMES[figure.column]} {of_limit(number(figure.value), figure.limit)}"


def floor_text(fault: FirstFault) -> str:
    """`1 of 0.001`: the noise floor at a fault that breaks no limit but that; else empty."""
    floor = floor_alone(fault.reason)
    return "" if floor is None else of_limit(number(floor.value), floor.limit)


def tap_figure(row: Mapping[str, Any], column: str) -> str:
    """A figure of a tap row beside its limit: `3.20 of 4`."""
    value = number(tap_value(row, column))
    return value if value == "-" else of_limit(value, limit_of(row, column))


def snr_words(hop: HopResult) -> str:
    """How well two sets of kernels agree: `lowest SNR 38.3 dB (logits, input long)`; empty for any other hop."""
    lowest = hop.lowest_snr
    if lowest is None:
        return ""
    without = "inf" if hop.first_failing_tap is None else "NaN"  # JSON can hold neither
    snr = without if lowest.snr_db is None or math.isnan(lowest.snr_db) else f"{lowest.snr_db:.1f}"
    return clean(f"lowest SNR {snr} dB ({lowest.tap}, input {one_line(lowest.input, 40)})")


def nearest_figure(row: Mapping[str, Any]) -> str:
    """The figure of a tap that uses up most of its limit, as `3.20 of 4` or `position 15.1 of 16`."""
    if is_nothing(row["nan_count"]):
        return "not comparable"
    return figure_text(nearest(row)).removeprefix("excess ")


def rows_of(frame: pd.DataFrame, **wanted: str) -> list[dict[str, Any]]:
    """Tap rows whose columns have the wanted values, in execution order."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    rows = [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]
    return sorted(rows, key=lambda row: int(row["order"]))


def worst_per_tap(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The worst row of each tap over its inputs: a failing one before a missing one before a pass."""
    chosen: dict[str, tuple[tuple[int, float], dict[str, Any]]] = {}
    for row in rows:
        badness, other = _badness(row), chosen.get(row["tap"])
        if other is None or badness > other[0]:
            chosen[row["tap"]] = badness, row
    return {tap: row for tap, (_, row) in chosen.items()}


def _badness(row: Mapping[str, Any]) -> tuple[int, float]:
    return -_WORST_FIRST.index(row["verdict"]), sort_key(row)


def worst_excess(worst: Worst | None) -> str:
    """The excess of a hop's worst tap beside its limit; NaN if the error is, and undefined without either."""
    if worst is None:
        return "-"
    value = compared(worst.max_abs_err) if is_nothing(worst.max_abs_err) else number(worst.excess)
    return of_limit(value, worst.limit)


def nearest_to_limit(record: Record) -> str:
    """The worst figures of the whole run in one sentence; empty when nothing was compared."""
    said = []
    figures: tuple[tuple[str, Literal["worst", "worst_position"]], ...] = (
        ("worst excess", "worst"),
        ("worst at a single position", "worst_position"),
    )
    for name, attribute in figures:
        found = worst_of(record, attribute)
        if found is None:
            continue
        hop, worst = found
        said.append(f"{name} {worst_excess(worst)} ({worst.tap}, {hop.name}, input {one_line(worst.input, 40)})")
    sentence = "; ".join(said)
    return clean(capital(sentence) + ".") if sentence else ""


def worst_of(record: Record, attribute: Literal["worst", "worst_position"] = "worst") -> tuple[HopResult, Worst] | None:
    """The hop whose worst tap comes nearest to its limit or goes furthest past it; None when nothing was compared."""
    found = [(hop, worst) for hop in record.hops if (worst := getattr(hop, attribute)) is not None]
    return max(found, key=lambda pair: share_of(pair[1])) if found else None


def share_of(worst: Worst) -> float:
    """How much of its limit the worst tap of a hop uses up; infinite for NaN."""
    limit = None if is_nothing(worst.limit) else worst.limit
    return Figure("excess", math.nan if worst.excess is None else worst.excess, limit).share


def compared(value: float | None) -> str:
    """A number of what was compared: where the record has none, JSON could not hold the NaN or Inf."""
    return "NaN" if is_nothing(value) else number(value)


def missing_groups(hop: HopResult) -> list[MissingGroup]:
    """A hop's missing taps by reason, the largest group first."""
    by_why: dict[str, list[str]] = {}
    for missing in hop.missing:
        by_why.setdefault(missing.why, []).append(missing.tap)
    everything = hop.taps_compared == 0 and len(by_why) == 1
    groups = [
        MissingGroup(len(taps), ("every tap",) if everything else _patterns(taps), why) for why, taps in by_why.items()
    ]
    unnamed = hop.taps_missing - len(hop.missing)
    if unnamed > 0:
        groups.append(MissingGroup(unnamed, (), "the record does not say why"))
    return sorted(groups, key=lambda group: -group.count)


def _patterns(taps: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, list[str]] = {}
    for tap in taps:
        block, point = split_tap(tap)
        found.setdefault(tap if block is None else f"block.*.{point}", []).append(tap)
    return tuple(pattern if len(names) > 1 else names[0] for pattern, names in found.items())


def module_of(record: Record, tap: str, stage: str) -> str | None:
    """What a tap is called in a stage: an HF module, a re-authored module or a flatbuffer tensor."""
    return record.taps.get(tap, {}).get(_version(stage))


def capital(sentence: str) -> str:
    """A sentence with a capital, unless it begins with a name: a field (`tied_embeddings: ...`), a key or a hop."""
    return sentence[:1].upper() + sentence[1:] if _PLAIN_WORD.match(sentence) else sentence


def headline(record: Record) -> str:
    """The verdict in one sentence, and one more where it rests on looser limits than the shipped ones."""
    return " ".join(filter(None, (_headline(record), looser_words(record))))


def looser_words(record: Record) -> str:
    """The rules that are looser than the shipped ones, in one sentence; empty where none is."""
    said = [f"{item.rule} ({', '.join(item.limits)})" for item in record.looser_rules]
    if not said:
        return ""
    what = "rule that is" if len(said) == 1 else "rules that are"
    return clean(f"Judged by {'a ' if len(said) == 1 else ''}{what} looser than the shipped one: {'; '.join(said)}.")


def _headline(record: Record) -> str:
    if record.verdict == "pass":
        missing = sum(hop.taps_missing for hop in record.hops)
        hops = f"{len(record.hops)} of {len(record.hops)} hops pass"
        if missing:
            return f"Parity holds on every compared tap: {hops}; {missing} taps could not be compared."
        return f"Parity holds: {hops}, and every tap was compared."
    parts = [f"stage {s.name} {_ENDED[s.status]}" for s in record.stages if s.status in _ENDED]
    fault = record.first_fault
    if fault is not None and is_given(fault.owner):
        parts.insert(0, f"hop {fault.hop} cannot be judged from {fault.tap} on: {'; '.join(fault.evidence[1:2])}")
    elif fault is not None:
        parts.insert(0, f"parity is lost in {fault.hop}, first at {fault.tap}")
    if not parts:
        parts = [f"hop {hop.name} fails: {hop.reasons[0]}" for hop in record.hops if hop.verdict == "fail"][:1]
    if not parts:
        parts = [finding.what for finding in record.findings if finding.severity == "error"][:1]
    sentence = "; ".join(parts)
    return clean(capital(sentence) + ".")


_ENDED = {"crashed": "crashed", "timeout": "timed out"}


def fault_words(record: Record, row: Mapping[str, Any] | None) -> str:
    """How far the first fault goes past its limit, in one sentence; empty where no figure does.

    row: the tap row of the first fault.
    """
    fault, figure = record.first_fault, None if row is None else nearest(row)
    if fault is None or row is None or figure is None or figure.limit is None or figure.share <= 1.0:
        return ""
    source, target = fault.between.stages
    if figure.column == NOISE_FLOOR:
        return clean(
            f"{fault.tap} cannot be judged: hf in float32 is off from itself in float64 by {number(figure.value)} of "
            f"the tap's size; the limit is {number(figure.limit)}."
        )
    module = fault.modules.get(_version(target))
    where = f" ({module})" if module and not runs_file(target) else ""
    if math.isnan(figure.value) or math.isinf(figure.value):
        return clean(f"{fault.tap} of {target}{where} holds NaN or Inf, or cannot be compared with {source}.")
    at = f" at token position {int(row['worst_position'])}" if figure.column == "position_excess" else ""
    at = " at its worst token position" if figure.column == "local_position_excess" else at
    alone = f", computed from what {source} has before it," if figure.column in LOCAL else ""
    return clean(
        f"{fault.tap} of {target}{where}{alone} is off from {source} by {number(figure.value)} times what float32 "
        f"itself costs there{at}; the limit is {number(figure.limit)}."
    )


def defect_words(known: KnownDefect) -> str:
    """What became of a known defect in this run."""
    return {
        "seen": "shows here as listed",
        "gone": "does not show here, though it is listed",
        "elsewhere": "is listed, but something else fails here",
    }[known.state]


def suspicion(record: Record) -> str:
    """Whose the first fault is and what to look at, as far as the verdicts of the hops tell; empty without one."""
    fault = record.first_fault
    if fault is None:
        return ""
    source, target = fault.between.stages
    names = [fault.modules.get(_version(stage)) for stage in (source, target)]
    if not runs_file(target):
        what = " with ".join(name for name in names if name) or fault.tap
        return f"Suspect the model in {target}: compare {what}: weights, then configuration, then code."
    others = [hop for hop in record.hops if hop.from_ == source and hop.to != target and runs_file(hop.to)]
    twin = next((hop for hop in others if hop.taps_compared), None)
    if fault.between.on_kernels:
        return f"Suspect the kernels of {target}, or those of {source}: both run the same quantised flatbuffer."
    if "[" in target or twin is None:
        return f"Suspect what changes between {source} and {target}: nothing else was compared."
    if twin.first_failing_tap is None:
        return (
            f"Suspect the kernels of {target}: {twin.to} runs the same flatbuffer, and every compared tap passes there."
        )
    if twin.first_failing_tap == fault.tap:
        return f"Suspect the conversion: {twin.to} runs the same flatbuffer and first fails at the same tap."
    return f"Suspect the kernels or the conversion: {twin.to} fails too, but first at {twin.first_failing_tap}."


def _version(stage: str) -> str:
    known = known_stage(stage)
    return stage if known is None else known.version
