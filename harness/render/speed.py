"""How fast the stages are, beside what they cost in accuracy. In: the record. Out: rows of text, and sentences."""

from __future__ import annotations

from dataclasses import dataclass

from harness.names.stages import FLOAT, Floor, split
from harness.plain import clean
from harness.record.record import HopResult, Record
from harness.record.speed import UNSTEADY, Measured, StageSpeed
from harness.render.numbers import compared, number
from harness.render.text import perplexity_of

SPEED_COLUMNS = (
    "prefill tok/s",
    "decode tok/s",
    "first token ms",
    "load s",
    "peak MB",
    "file MB",
    "KL mean",
    "flips",
    "perplexity",
)


@dataclass(frozen=True)
class SpeedRow:
    """A stage. cells: a figure and its spread, or nothing, for each of `SPEED_COLUMNS`. why_not: in their place."""

    stage: str
    cells: tuple[tuple[str, str], ...]
    why_not: str


def speed_rows(record: Record) -> list[SpeedRow]:
    """A row per stage, in the order of the pipeline; none where speed was not measured."""
    return [_row(record, one) for one in (record.speed.stages if record.speed else [])]


def speed_words(record: Record) -> str:
    """How it was measured, in a sentence; empty where it was not."""
    table = record.speed
    if table is None:
        return ""
    lost = "".join(f" {one.stage} was not measured: {one.why_not}." for one in table.stages if one.why_not)
    threads = f"{table.threads} {'thread' if table.threads == 1 else 'threads'}"
    return clean(
        f"Speed: {threads}, each stage alone; median over prompts of {table.prompt} tokens, and the spread between the "
        f"quartiles as a share of it.{lost}"
    )


def unsteady_words(record: Record) -> str:
    """Whose figures say little, and why; empty where all are steady."""
    said = [_unsteady(one) for one in (record.speed.stages if record.speed else []) if one.is_unsteady]
    return clean(f"Figures of speed to measure again on a quiet machine: {'; '.join(said)}.") if said else ""


def quality_hop(record: Record, stage: str) -> HopResult | None:
    """The hop whose KL and flips stand beside a stage's speed: its own, and of a quantised file what its recipe costs.

    None where the record has none.
    """
    into = {hop.to: hop for hop in record.hops}
    hop = into.get(stage)
    for _ in record.hops if split(stage)[1] != FLOAT else ():
        if hop is None or hop.hop.floor is Floor.PRICE:
            break
        hop = into.get(hop.from_)
    return hop


def _row(record: Record, one: StageSpeed) -> SpeedRow:
    hop = quality_hop(record, one.stage)
    logits = hop.logits if hop is not None else None
    cells = (
        *map(_with_spread, (one.prefill, one.decode)),
        _with_spread(one.first_token, 1e3),
        ("-" if one.load is None else f"{one.load:.2f}", ""),
        *((number(None if mb is None else round(mb)), "") for mb in (one.peak_mb, one.file_mb)),
        ("-" if logits is None else compared(logits.kl_mean), ""),
        ("-" if logits is None else str(logits.flips), ""),
        (perplexity_of(record, one.stage), ""),
    )
    return SpeedRow(one.stage, cells, one.why_not)


def _with_spread(found: Measured | None, factor: float = 1.0) -> tuple[str, str]:
    return ("-", "") if found is None else (_plain(factor * found.median), _share(found.spread))


def _plain(value: float) -> str:
    """Three digits, and no power of ten where a person thinks in thousands: `1,204`."""
    return f"{value:,.0f}" if value >= 100 else number(value)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= UNSTEADY else f"{100 * value:.2g} %"


def _unsteady(one: StageSpeed) -> str:
    figures = [each for each in (one.prefill, one.decode, one.first_token) if each is not None]
    widest = max((each.spread for each in figures), default=0.0)
    busy = "" if one.others is None else f", while others kept {number(round(one.others, 2))} cores busy"
    return f"{one.stage} (spread {_share(widest)}{busy})"
