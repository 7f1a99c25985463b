"""The text that perplexity is measured on. In: the record. Out: figures as text, and a sentence."""

from __future__ import annotations

from harness.plain import clean
from harness.record.record import Record
from harness.render.numbers import compared


def perplexity_of(record: Record, stage: str) -> str:
    """Of a stage; `-` where it was not measured."""
    found = [one for one in record.text.stages if one.stage == stage] if record.text else []
    return compared(found[0].perplexity) if found else "-"


def first_perplexity(record: Record) -> str:
    """`hf: perplexity 41.2`: of the first stage of the pipeline that ran the text."""
    if record.text is None or not record.text.stages:
        return "no stage ran it"
    first = record.text.stages[0]
    return clean(f"{first.stage}: perplexity {compared(first.perplexity)}")


def not_measured(record: Record) -> str:
    """Why there is no perplexity, in a sentence; empty where there is one, or none was to be measured."""
    if record.text is None or record.text.stages:
        return ""
    return clean(f"Perplexity was not measured: {record.text.why_not or 'no stage ran the text'}.")
