"""The hops of a run as tables in the terminal, those of a recipe under its name. In: the record. Out: rich tables.

A hop's name with its recipe twice is wider than a page; at 80 columns each name takes two lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.names.stages import Floor
from harness.plain import one_line
from harness.record.record import HopResult, Record, Worst
from harness.render.console import cells, new_table, verdict_cell
from harness.render.numbers import compared, number, percent, ratio_text, worst_excess
from harness.render.recipes import hop_groups, short_name
from harness.render.sentences import breach_words, snr_figure
from harness.render.speed import SPEED_COLUMNS, speed_rows
from harness.render.text import first_perplexity, perplexity_of
from harness.render.words import fault_of

if TYPE_CHECKING:
    from rich.table import Table

Cells = Sequence[str | tuple[str, str]]
_WIDEST_RECIPE = 22  # that stands in one piece


def tables_of(record: Record) -> list[Table]:
    """Those for which the record has something to say."""
    tables = [hop_table(record)]
    if any(hop.logits for hop in record.hops):
        tables.append(logits_table(record))
    if any(hop.text for hop in record.hops):
        tables.append(text_table(record))
    if record.speed is not None:
        tables.append(speed_table(record))
    return tables


def _add_groups(
    table: Table,
    record: Record,
    cells_of: Callable[[HopResult, str], Cells],
    shown: Callable[[HopResult], object] = lambda hop: True,
) -> None:
    """A row per hop, those of a recipe under its name: a hop's name with two recipes in it is wider than a page."""
    for group in hop_groups(record):
        if group.name and group.hops:
            table.add_section()
            table.add_row(*cells((group.name, "bold"), *[""] * (len(table.columns) - 1)))
        for hop in filter(shown, group.hops):
            table.add_row(*cells(*cells_of(hop, in_lines(short_name(hop) if group.name else hop.name))))


def _where(worst: Worst | None) -> str:
    return "-" if worst is None else f"{worst_excess(worst)}\n{one_line(worst.tap, 30)}\n{one_line(worst.input, 24)}"


def _where_snr(hop: HopResult) -> str:
    lowest = hop.lowest_snr
    if lowest is None:
        return "-"
    return f"SNR {snr_figure(hop)} dB\n{one_line(lowest.tap, 30)}\n{one_line(lowest.input, 24)}"


def hop_table(record: Record) -> Table:
    """Verdict, worst tap and coverage of each hop."""
    columns = [("hop", False), ("verdict", False), ("worst excess", False), ("worst position", False)]
    table = new_table(
        "hops (excess = error over the noise floor of float32, of its limit)",
        [*columns, ("coverage", True)],
        min_first=_first_width(record),
    )

    def row(hop: HopResult, name: str) -> Cells:
        coverage = f"{percent(hop.coverage)}\n{hop.taps_compared}/{hop.taps_compared + hop.taps_missing}"
        worst = _where_snr(hop) if hop.lowest_snr is not None else _where(hop.worst)
        breach = breach_words(hop, fault_of(record, hop))
        worst = f"{worst}\n{breach}" if breach else worst
        return name, verdict_cell(hop.verdict), worst, _where(hop.worst_position), coverage

    _add_groups(table, record, row)
    return table


def _first_width(record: Record) -> int:
    """Of the column of hops: a recipe's name stands in it, in one piece where it is of a usual length."""
    return min(_WIDEST_RECIPE, max((len(group.name) for group in hop_groups(record)), default=0))


def logits_table(record: Record) -> Table:
    """How far the logits of each hop are apart."""
    names = ("max abs\nerr", "KL mean", "KL p99", "flips", "above\nnoise", "answers")
    table = new_table("logits", [("hop", False), *((name, True) for name in names)], min_first=_first_width(record))

    def row(hop: HopResult, name: str) -> Cells:
        logits = hop.logits
        if logits is None:
            return name, ("missing", "yellow"), *["-"] * 5
        # What a recipe costs is not a fault, however many answers it changes.
        bad = logits.flips_above_noise and not hop.hop.by_snr
        flips = (str(logits.flips), (str(logits.flips_above_noise), "bold red" if bad else ""))
        divergence = (compared(logits.kl_mean), number(logits.kl_p99))
        return name, compared(logits.max_abs_err), *divergence, *flips, number(logits.answer_flips)

    _add_groups(table, record, row)
    return table


def text_table(record: Record) -> Table:
    """How well the stages predict the text that is measured, and how far those of each hop are apart on it."""
    text = record.text
    assert text is not None
    named = "text" if text.name == "" else f"text {one_line(text.name, 40)}"
    names = ("KL mean", "KL p99", "flips", "answers", "perplexity", "ratio")
    table = new_table(
        f"{named}, {text.tokens:,} tokens ({first_perplexity(record)})",
        [("hop", False), *((name, True) for name in names)],
        min_first=_first_width(record),
    )

    def row(hop: HopResult, name: str) -> Cells:
        on_text = hop.text
        if on_text is None:
            return name, ("missing", "yellow"), *["-"] * 5
        divergence = (compared(on_text.kl_mean), compared(on_text.kl_p99))
        changed = (str(on_text.flips), str(on_text.answer_flips))
        return name, *divergence, *changed, perplexity_of(record, hop.to), ratio_text(on_text.perplexity_ratio)

    # The kernels of the float32 file run no text where recipes are judged.
    _add_groups(table, record, row, lambda hop: hop.text or hop.hop.floor is not Floor.NOISE)
    return table


def speed_table(record: Record) -> Table:
    """How fast each stage is, with what it costs in accuracy beside that."""
    headings = [name.replace("perplexity", "PPL").replace(" ", "\n") for name in SPEED_COLUMNS]
    table = new_table("speed (PPL: perplexity)", [("stage", False), *((name, True) for name in headings)], min_first=14)
    for row in speed_rows(record):
        shown = ["\n".join(filter(None, cell)) for cell in row.cells]
        table.add_row(*cells(in_lines(row.stage), *(shown if not row.why_not else ["-"] * len(headings))))
    return table


def in_lines(hop: str) -> str:
    """A hop's name in pieces that fit into a column."""
    return hop.replace("->", "\n->").replace("[", "\n[")
