"""Errors by decode step: gathered tap by tap, kept in the record, and shown in terminal, report and Model Explorer."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from record_factory import make_run
from rich.console import Console

from harness.compare.steps import StepTally
from harness.record.record import DecodeSteps, Record
from harness.record.tap_row import TapRow, rows_in, taps_frame
from harness.render.explorer import FOLDER, write_explorer
from harness.render.html import write_report
from harness.render.page_data import tap_data
from harness.render.sentences import steps_words
from harness.render.terminal import print_summary

HOP, ITEM = "hf->reauthored", "padded"


def row(tap: str, limit: float = 16.0) -> TapRow:
    return TapRow(model="m", input=ITEM, hop=HOP, tap=tap, block=-1, order=0, position_excess_limit=limit)


def tallied(*taps: tuple[TapRow, list[float]], decoded: int = 2) -> list[DecodeSteps]:
    tally = StepTally({ITEM: decoded})
    for given, excess in taps:
        tally.add(given, np.arange(len(excess)), np.array(excess))
    return tally.result({})


def test_each_step_has_the_tap_that_is_nearest_to_its_own_limit() -> None:
    wide, narrow = row("embed", 100.0), row("final_norm", 10.0)
    (steps,) = tallied((wide, [900.0, 900.0, 50.0, 50.0, 200.0]), (narrow, [0.0, 0.0, 4.0, 9.0, 9.0]))
    assert steps.positions == [2, 3, 4]
    assert steps.taps == ["embed", "final_norm", "embed"]
    assert (steps.worst, steps.limits) == ([50.0, 9.0, 200.0], [100.0, 10.0, 100.0])
    assert (steps.logits, steps.limit, steps.first_over) == ([], None, 3)


def test_the_logits_are_kept_apart_and_what_is_no_number_is_the_worst() -> None:
    (steps,) = tallied((row("logits"), [1.0, 1.0, 2.0, math.nan]), (row("out"), [1.0, 1.0, 3.0, 900.0]))
    assert (steps.logits, steps.limit) == ([2.0, None], 16.0)
    assert (steps.taps, steps.worst) == (["out", "logits"], [3.0, None])
    assert steps.used == [3.0 / 16.0, math.inf]


def test_a_row_keeps_its_worst_decode_step() -> None:
    given, prefilled = row("embed"), row("embed")
    tallied((given, [900.0, 900.0, 1.0, 7.0, 2.0]))
    tallied((prefilled, [900.0, 900.0]))
    assert (given.decode_excess, given.decode_position) == (7.0, 3)
    assert math.isnan(prefilled.decode_excess)
    assert prefilled.decode_position is None


def test_an_input_with_one_decode_step_is_no_course_of_steps() -> None:
    assert tallied((row("embed"), [1.0, 1.0, 5.0])) == []


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValidationError, match="decode steps"):
        DecodeSteps(hop=HOP, input=ITEM, positions=[1, 2], worst=[1.0], limits=[1.0], taps=["embed"])


STEPS = DecodeSteps(
    hop=HOP,
    input=ITEM,
    positions=[19, 20, 21],
    logits=[1.0, 2.0, 300.0],
    limit=16.0,
    worst=[2.0, 320.0, None],
    limits=[16.0, 16.0, 16.0],
    taps=["embed", "block.2.mlp.out", "logits"],
    kl=[1e-9, 1e-9, 0.1],
)


def run_with(*steps: DecodeSteps) -> tuple[Record, Any]:
    record, frame = make_run("fail")
    rows = [replace(one, decode_excess=12.0, decode_position=20) for one in rows_in(frame)]
    return record.model_copy(update={"steps": list(steps)}), taps_frame(rows)


def test_a_line_says_how_many_steps_are_over_from_which_on_and_the_worst() -> None:
    said = steps_words([STEPS])
    assert said.startswith("over a limit in 2 of 3 decode steps of input padded, from step 2 (position 20); ")
    assert said.endswith("worst is logits not finite at step 3")
    fine = STEPS.model_copy(update={"worst": [1.0, 2.0, 15.0]})
    assert steps_words([fine]) == steps_words([]) == ""


def printed(record: Record, frame: Any) -> str:
    console = Console(file=io.StringIO(), width=300)
    print_summary(record, frame, Path("run"), console)
    return console.file.getvalue()


def test_the_terminal_has_a_line_for_a_failing_hop_and_none_for_one_that_passes() -> None:
    passing = STEPS.model_copy(update={"hop": "reauthored->tflite-builtin"})
    assert f"{HOP} over a limit in 2 of 3 decode steps" in printed(*run_with(STEPS, passing))
    assert printed(*run_with(STEPS, passing)).count("decode steps") == 1


def test_the_report_has_the_chart_where_there_are_steps(tmp_path: Path) -> None:
    record, frame = run_with(STEPS)
    (shown,) = tap_data(record, frame)["steps"]
    assert (shown["positions"], shown["worst"], shown["taps"][1]) == ([19, 20, 21], [2, 320, "inf"], "block.2.mlp.out")
    assert 'id="steps-chart"' in write_report(tmp_path, record, frame).read_text(encoding="utf-8")
    assert 'id="steps-chart"' not in write_report(tmp_path, *run_with()).read_text(encoding="utf-8")


def test_model_explorer_colours_taps_by_their_worst_decode_step(tmp_path: Path) -> None:
    write_explorer(tmp_path, *run_with(STEPS))
    (file,) = (tmp_path / FOLDER).glob("hf-to-reauthored.decode_excess.json")
    (overlay, _) = json.loads(file.read_text(encoding="utf-8")).values()
    assert overlay["results"]["embed"]["value"] == 12.0


def test_a_record_with_steps_comes_back_as_it_was_written() -> None:
    record, _ = run_with(STEPS)
    assert Record.model_validate_json(record.to_json()).steps == [STEPS]
