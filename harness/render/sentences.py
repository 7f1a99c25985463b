"""What several renderers say in the same words: the verdict, how far a fault goes, groups of missing taps.

In: the record. Out: sentences.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.judge.shares import nearest
from harness.locate.owners import is_given
from harness.names.boundaries import WORDS as BOUNDARIES
from harness.names.figures import FLOOR, LOCAL_FIGURES
from harness.names.stages import Floor, known_stage, runs_file
from harness.names.taps import split_tap
from harness.plain import clean, one_line
from harness.record.record import DecodeSteps, Fault, HopResult, KnownDefect, Record
from harness.record.tap_row import TapRow
from harness.render.numbers import floor_text, number, of_limit, share_of, worst_excess, worst_of

_ENDED = {"crashed": "crashed", "timeout": "timed out"}
# A word of a sentence, and not a name, which has underscores, dots or a colon.
_PLAIN_WORD = re.compile(r"[a-z][a-z'-]*,?(?=\s|$)")


@dataclass(frozen=True)
class MissingGroup:
    """Taps that are missing for one reason. `patterns` are names with `*` for the block number."""

    count: int
    patterns: tuple[str, ...]
    why: str


def snr_words(hop: HopResult) -> str:
    """Where an error told as SNR is largest: `lowest SNR 38.3 dB (logits, input long)`; empty for any other hop."""
    lowest = hop.lowest_snr
    if lowest is None:
        return ""
    return clean(f"lowest SNR {snr_figure(hop)} dB ({lowest.tap}, input {one_line(lowest.input, 40)})")


def snr_figure(hop: HopResult) -> str:
    """The lowest SNR of a hop in dB, `38.3`; empty for a hop that is judged by its excess."""
    lowest = hop.lowest_snr
    if lowest is None:
        return ""
    without = "inf" if hop.first_failing_tap is None else "NaN"  # JSON can hold neither
    return without if lowest.snr_db is None or math.isnan(lowest.snr_db) else f"{lowest.snr_db:.1f}"


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
    if fault is not None and is_unjudged(fault):
        parts.insert(0, f"{fault.owner if is_price(fault) else f'hop {fault.hop}'} {given_words(fault, fault.tap)}")
    elif fault is not None:
        parts.insert(0, f"parity is lost in {fault.hop}, first at {fault.tap}")
    if not parts:
        parts = [f"hop {hop.name} fails: {hop.reasons[0]}" for hop in record.hops if hop.verdict == "fail"][:1]
    if not parts:
        parts = [finding.what for finding in record.findings if finding.severity == "error"][:1]
    sentence = "; ".join(parts)
    return clean(capital(sentence) + ".")


def is_unjudged(fault: Fault) -> bool:
    """Whether the fault lies in what the stages were given and says nothing of the hop itself. A runtime that has
    finite values of its own, and others than the numbers of the file give, was judged."""
    finite = fault.excess is not None and math.isfinite(fault.excess)
    return is_given(fault.owner) and not (fault.between.floor is Floor.RUNTIME and finite)


def is_price(fault: Fault) -> bool:
    """Whether a fault is what a recipe costs, which is more than a limit allows: no number of the file is to blame."""
    return fault.between.floor is Floor.PRICE and not fault.evidence[1:]


def given_words(fault: Fault, tap: str) -> str:
    """What to say of a hop whose fault lies in what the stages were given. tap: the fault's, in words."""
    if is_price(fault):
        return f"costs more than its limit allows at {tap}: {fault.reason}"
    return f"cannot be judged from {tap} on{': ' if fault.evidence[1:] else ''}{'; '.join(fault.evidence[1:2])}"


def excess_words(fault: Fault, short: bool = False) -> str:
    """How far a fault is off: its excess; of a hop that has none, the limits that it breaks; or the noise floor.

    short: the excess without the position and the limit.
    """
    if floor := floor_text(fault):
        return f"noise floor {floor}"
    if fault.between.by_snr:
        return fault.reason or "no figure"
    excess = f"excess {number(math.nan if fault.excess is None else fault.excess)}"
    return excess if short else f"{excess}, at its worst position {number(fault.position_excess)}: {fault.reason}"


def breach_words(hop: HopResult, fault: Fault | None) -> str:
    """The first limit that a hop's fault breaks, where the hop's worst excess would say that none is; else empty.

    A mistake that errors from before hide shows in the local pass alone.
    """
    if hop.verdict != "fail" or fault is None or (hop.worst is not None and share_of(hop.worst) > 1.0):
        return ""
    return fault.reason.partition(";")[0].replace("_", " ")


def fault_words(record: Record, row: TapRow | None) -> str:
    """How far the first fault goes past its limit, in one sentence; empty where no figure does.

    row: the tap row of the first fault.
    """
    fault, figure = record.first_fault, None if row is None else nearest(row)
    if fault is None or row is None or figure is None or figure.limit is None or figure.share <= 1.0:
        return ""
    source, target = fault.between.stages
    if figure.column == FLOOR:
        return clean(
            f"{fault.tap} cannot be judged: hf in float32 is off from itself in float64 by {number(figure.value)} of "
            f"the tap's size; the limit is {number(figure.limit)}."
        )
    module = fault.modules.get(_version(target))
    where = f" ({module})" if module and not runs_file(target) else ""
    if math.isnan(figure.value) or math.isinf(figure.value):
        return clean(f"{fault.tap} of {target}{where} cannot be compared with {source}: {_not_finite(row)}.")
    at = f" at token position {row.worst_position}" if figure.column == "position_excess" else ""
    at = " at its worst token position" if figure.column == "local_position_excess" else at
    alone = f", computed from what {source} has before it," if figure.column in LOCAL_FIGURES else ""
    return clean(
        f"{fault.tap} of {target}{where}{alone} is off from {source} by {number(figure.value)} times what float32 "
        f"itself costs there{at}; the limit is {number(figure.limit)}."
    )


def _not_finite(row: TapRow) -> str:
    """How many values of either side are not finite."""
    counts = {"NaN": row.nan_count, "infinite": row.inf_count}
    said = [f"{count} {'value is' if count == 1 else 'values are'} {kind}" for kind, count in counts.items() if count]
    return " and ".join(said) or "its error has no value"


def further_faults(record: Record) -> list[tuple[str, list[str]]]:
    """(what they are, each with its hop) of all faults but the first: those that are the same mistake by themselves."""
    rest, hops = record.faults[1:], len({fault.hop for fault in record.faults})
    same = [fault for fault in rest if fault.same_as]
    found = [("Also at fault", [f"{fault.tap} ({fault.hop})" for fault in rest if not fault.same_as])]
    for first in dict.fromkeys((fault.hop, fault.same_as) for fault in same):
        taps = [fault.tap for fault in same if (fault.hop, fault.same_as) == first]
        found.append((f"The same as at {first[1]}{f' ({first[0]})' if hops > 1 else ''}", taps))
    return [(title, taps) for title, taps in found if taps]


def sequence_words(fault: Fault) -> str:
    """Where in the sequence a fault lives: `in decode alone, from step 3 (position 21)`; empty where not known."""
    edge = f", {BOUNDARIES[fault.boundary]}" if fault.boundary in BOUNDARIES else ""
    start = "" if fault.starts_at is None else f"from position {fault.starts_at} on{edge}"
    if fault.first_step is not None and not start:
        start = f"from step {fault.first_step} (position {fault.first_position})"
    alone = f"in {fault.only_in} alone" if fault.only_in else ""
    return ", ".join(filter(None, (alone, start)))


def steps_words(steps: Sequence[DecodeSteps]) -> str:
    """Which decode steps of a hop are over a limit, on the input with most of them; empty where none is.

    `over a limit in 3 of 16 decode steps of input mine, from step 14 (position 19); worst is embed 31 of 16 at step 9`
    """
    over = [sum(not used <= 1 for used in one.used) for one in steps]
    if not any(over):
        return ""
    most = max(range(len(steps)), key=lambda i: over[i])
    one = steps[most]
    first, at = one.first_over or 1, max(range(len(one.used)), key=lambda i: one.used[i])
    worst, limit = one.worst[at], one.limits[at]
    figure = of_limit(number(math.nan if worst is None else worst), limit)
    where = f"from step {first} (position {one.positions[first - 1]})"
    counted = f"{over[most]} of {len(one.used)} decode steps of input {one_line(one.input, 40)}"
    return clean(f"over a limit in {counted}, {where}; worst is {one.taps[at]} {figure} at step {at + 1}")


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
    if fault.between.floor is Floor.PRICE:
        return f"The recipe costs this: {target} is {source} with the numbers of the quantised file."
    if not runs_file(target):
        what = " with ".join(name for name in names if name) or fault.tap
        return f"Suspect the model in {target}: compare {what}: weights, then configuration, then code."
    others = [hop for hop in record.hops if hop.from_ == source and hop.to != target and runs_file(hop.to)]
    twin = next((hop for hop in others if hop.taps_compared), None)
    if fault.between.floor is Floor.RUNTIME and is_given(fault.owner):
        return f"Suspect the file: {target} has something else there than the numbers of the file that are known give."
    if fault.between.floor is Floor.RUNTIME:
        return f"Suspect the kernels of {target}: {source} computes with the same numbers of the file."
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


@functools.cache
def _version(stage: str) -> str:
    known = known_stage(stage)
    return stage if known is None else known.version
