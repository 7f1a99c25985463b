"""The laws of a run in words and as a table. In: the record. Out: a sentence, and a row per law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.names.laws import LAW_WORDS, LawName
from harness.record.laws import LawResult
from harness.record.record import Record
from harness.render.numbers import number


class LawRow(NamedTuple):
    """A law over all stages. cells: (what is shown, its class, the rest of it) by stage."""

    law: str
    words: str
    cells: Sequence[tuple[str, str, str]]


def law_words(record: Record) -> str:
    """How many laws hold and which comes nearest to its limit, in a sentence; nothing of a record from before them."""
    counts = {verdict: sum(one.verdict == verdict for one in record.laws) for verdict in _VERDICTS}
    if not record.laws:
        return "" if record.options.get("laws", True) else "Laws were not checked; --laws checks them."
    asked = sum(counts.values()) - counts["not applicable"]
    if counts["holds"] == asked:
        stages = len(law_stages(record))
        head = f"All {asked} laws hold in {stages} stage{'' if stages == 1 else 's'}"
    else:
        told = [f"{counts[verdict]} {verdict}" for verdict in ("broken", "not run") if counts[verdict]]
        head = f"Of {asked} laws {', '.join(told)}"
    return f"{head}{_nearest(record)}."


def law_stages(record: Record) -> list[str]:
    return list(dict.fromkeys(one.stage for one in record.laws))


def law_rows(record: Record) -> list[LawRow]:
    """A row per law, a cell per stage of `law_stages`."""
    stages = law_stages(record)
    found = {(one.law, one.stage): one for one in record.laws}
    laws = dict.fromkeys(one.law for one in record.laws)
    return [LawRow(law, _words(law), [_cell(found.get((law, stage))) for stage in stages]) for law in laws]


_VERDICTS = ("holds", "broken", "not run", "not applicable")


def _words(law: str) -> str:
    """In words; of a law of a later version, its name."""
    return LAW_WORDS[LawName(law)] if law in set(LawName) else law


def _nearest(record: Record) -> str:
    near = [one for one in record.laws if one.verdict == "holds" and one.figure and one.limit]
    if not near:
        return ""
    one = max(near, key=lambda one: (one.figure or 0.0) / (one.limit or 1.0))
    return f"; nearest to a limit {_figure(one)} ({one.law}, {one.stage}, {one.tap})"


def _figure(one: LawResult) -> str:
    return f"{number(one.figure)} of {number(one.limit)}"


def _cell(one: LawResult | None) -> tuple[str, str, str]:
    if one is None or one.verdict == "not applicable":
        return "-", "", "" if one is None else one.why
    if one.verdict == "holds":
        bent = bool(one.figure) and one.limit is not None
        return "holds", "", f"excess {_figure(one)} at {one.tap}" if bent else ""
    return one.verdict, "bad", f"as in {one.inherited}; {one.why}" if one.inherited else one.why
