"""What terminal, report and summary say of where in the sequence a fault lives."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from record_factory import make_run
from rich.console import Console

from harness.record.record import Record
from harness.render.html import write_report
from harness.render.markdown import summary
from harness.render.sentences import further_faults, sequence_words
from harness.render.terminal import print_summary

DECODE = {"only_in": "decode", "first_step": 3, "first_position": 21}


def run_with(**fields: Any) -> tuple[Record, Any]:
    record, frame = make_run("fail")
    changed = record.faults[0].model_copy(update=fields)
    return record.model_copy(update={"faults": [changed, *record.faults[1:]]}), frame


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (DECODE, "in decode alone, from step 3 (position 21)"),
        (
            DECODE | {"starts_at": 16, "boundary": "window"},
            "in decode alone, from position 16 on, the sliding window's edge",
        ),
        ({"only_in": "prefill"}, "in prefill alone"),
        ({"starts_at": 32, "boundary": "chunk"}, "from position 32 on, the start of a prefill chunk"),
        ({"starts_at": 40}, "from position 40 on"),
        ({"starts_at": 40, "boundary": "of a later version"}, "from position 40 on"),
        ({}, ""),
    ],
)  # fmt: skip
def test_a_fault_is_placed_in_words(fields: dict[str, Any], said: str) -> None:
    assert sequence_words(run_with(**fields)[0].faults[0]) == said


def test_the_words_stand_in_terminal_summary_and_report(tmp_path: Path) -> None:
    record, frame = run_with(**DECODE)
    console = Console(file=io.StringIO(), width=120)
    print_summary(record, frame, tmp_path, console)
    page = write_report(tmp_path, record, frame).read_text(encoding="utf-8")
    for text in (console.file.getvalue(), page):
        assert "in decode alone, from step 3 (position 21)" in text
    assert "where in the sequence: in decode alone, from step 3 (position 21)" in summary(record, tmp_path)


def test_nothing_stands_there_of_a_fault_that_is_everywhere(tmp_path: Path) -> None:
    record, frame = run_with()
    console = Console(file=io.StringIO(), width=120)
    print_summary(record, frame, tmp_path, console)
    assert "  sequence" not in console.file.getvalue()
    assert "where in the sequence" not in summary(record, tmp_path)


def test_what_is_the_same_mistake_is_told_with_the_fault_that_it_is_the_same_as() -> None:
    record, _ = run_with(tap="block.0.cache.k", **DECODE)
    first = record.faults[0]
    same = first.model_copy(update={"tap": "block.1.cache.k", "same_as": first.tap})
    other = first.model_copy(update={"tap": "logits"})
    told = dict(further_faults(record.model_copy(update={"faults": [first, same, other]})))
    assert told == {"The same as at block.0.cache.k": ["block.1.cache.k"], "Also at fault": [f"logits ({first.hop})"]}
