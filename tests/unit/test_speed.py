"""What a measurement of speed makes of times, and what pages say of it. No clock but one that is made up."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
from record_factory import make_run
from rich.console import Console

from harness.errors import UsageError
from harness.inputs.tokens import Step
from harness.jobs.driver import Called
from harness.pipeline.options import Options, check
from harness.pipeline.speed import stages_with_speed
from harness.record.record import Record
from harness.record.speed import Measured, SpeedTable, StageSpeed
from harness.render.html import write_report
from harness.render.markdown import summary
from harness.render.speed import quality_hop, speed_rows, unsteady_words
from harness.render.terminal import print_summary
from harness.speed.machine import Look, busy_seconds, others_cores
from harness.speed.measure import FEWEST, MOST, Repeat, is_enough, measured, repeat, summed
from harness.speed.prompt import DECODED, prompt_of, prompt_tokens


def test_a_prompt_is_as_long_as_the_largest_prefill_and_goes_round_the_tokens() -> None:
    prompt = prompt_of((8, 32), 256, [3, 4, 5])
    assert prompt.prefill == Step("prefill_32", 32, 0, 32)
    assert [step.start for step in prompt.decodes] == list(range(32, 32 + DECODED))
    assert prompt.tokens[:5] == (3, 4, 5, 3, 4)
    assert len(prompt.tokens) == 32 + DECODED


def test_a_prompt_leaves_room_in_the_cache_for_a_token() -> None:
    prompt = prompt_of((8, 32, 64), 32, [3])
    assert prompt.prefill == Step("prefill_32", 32, 0, 31)
    assert [step.start for step in prompt.decodes] == [31]
    assert prompt_tokens((8, 32, 64), 32) == 31
    assert len(prompt_of((8,), 12, [3]).decodes) == 4


class Counting:
    """A driver whose calls take what the clock says; it notes them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def fresh(self) -> int:
        return 0

    def call(self, step: Step, tokens: Any, cache: int) -> Called:
        assert len(tokens) == step.valid
        self.calls.append((step.signature, step.start, cache))
        return Called(None, cache + step.valid)


def test_a_repeat_is_one_prefill_and_then_decodes_on_the_cache_that_it_left() -> None:
    driver: Any = Counting()
    ticks = itertools.accumulate(itertools.chain([100.0, 4.0], itertools.repeat(0.5)))
    found = repeat(driver, prompt_of((4,), 7, [3]), lambda: next(ticks))
    assert found == Repeat(4.0, (0.5, 0.5, 0.5))
    assert driver.calls == [("prefill_4", 0, 0), ("decode", 4, 4), ("decode", 5, 5), ("decode", 6, 6)]


def test_figures_are_medians_of_repeats_with_their_quartiles() -> None:
    repeats = [Repeat(seconds, (0.5, 0.25)) for seconds in (1.0, 2.0, 4.0, 8.0, 16.0)]
    found = summed("hf", prompt_of((32,), 34, [3]), repeats)
    assert found.prefill == Measured(median=8.0, low=4.0, high=16.0)
    assert found.decode == Measured(median=2 / 0.75, low=2 / 0.75, high=2 / 0.75)
    assert found.first_token == Measured(median=4.5, low=2.5, high=8.5)
    assert (found.repeats, found.decoded) == (5, 2)
    assert found.prefill.spread == 1.5
    assert measured([7.0]) == Measured(median=7.0, low=7.0, high=7.0)


def test_the_budget_ends_a_stage_that_is_quick_and_one_that_is_slow() -> None:
    assert not is_enough(FEWEST, 0.1)
    assert not is_enough(FEWEST - 1, 20.0)
    assert is_enough(FEWEST, 20.0)
    assert is_enough(MOST, 0.1)
    assert is_enough(2, 100.0)
    assert not is_enough(1, 100.0)


def test_busy_seconds_are_all_but_idle_and_waiting_and_count_no_guest_twice() -> None:
    stat = "cpu  100 200 300 4000 5000 10 20 30 700 800\ncpu0 1 2 3 4\n"
    assert busy_seconds(stat, 100) == 6.6
    assert busy_seconds("cpu  1 2\n", 100) is None
    assert busy_seconds("intr 5\n", 100) is None


def test_others_are_counted_without_this_process() -> None:
    before = Look(10.0, 50.0, 7.0)
    assert others_cores(before, Look(14.0, 58.0, 13.0)) == 0.5
    assert others_cores(before, Look(14.0, 55.0, 13.0)) == 0.0
    assert others_cores(before, Look(14.0, None, 13.0)) is None
    assert others_cores(before, before) is None


def test_what_nobody_runs_has_no_speed() -> None:
    names = ("oracle", "hf", "reauthored", "fakequant[fp16]", "fakequant-builtin[fp16]", "tflite-xnnpack[fp16]")
    assert [stage.name for stage in stages_with_speed(names)] == ["hf", "reauthored", "tflite-xnnpack[fp16]"]


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_threads_that_the_machine_has_not_are_refused(threads: int) -> None:
    with pytest.raises(UsageError, match=f"--speed-threads {threads}: this machine has .*; give a number from 1 to"):
        check(Options("tiny_llama", speed=True, speed_threads=threads))


def test_threads_without_speed_are_refused() -> None:
    with pytest.raises(UsageError, match="add --speed"):
        check(Options("tiny_llama", speed_threads=1))
    check(Options("tiny_llama", speed=True, speed_threads=1))


def steady(stage: str, prefill: float, spread: float = 0.0, others: float | None = 0.0) -> StageSpeed:
    figure = Measured(median=prefill, low=prefill, high=prefill * (1 + spread))
    return StageSpeed(
        stage=stage, prefill=figure, decode=Measured(median=12.5, low=12.5, high=12.5),
        first_token=Measured(median=0.25, low=0.25, high=0.25), load=1.5, peak_mb=1234.4, repeats=5, others=others,
    )  # fmt: skip


def with_speed(*stages: StageSpeed) -> Record:
    return make_run("pass")[0].model_copy(update={"speed": SpeedTable(threads=2, prompt=32, stages=list(stages))})


def test_a_row_has_speed_and_what_the_stage_s_own_hop_came_to() -> None:
    (row,) = speed_rows(with_speed(steady("tflite-xnnpack", 1204.4)))
    cells = [figure for figure, _ in row.cells]
    assert cells == ["1,204", "12.5", "250", "1.50", "1234", "-", "8.80e-12", "0", "-"]
    (row,) = speed_rows(with_speed(steady("hf", 99.0)))
    assert [figure for figure, _ in row.cells][-3:] == ["-", "-", "-"]


def test_a_quantised_stage_has_what_its_recipe_costs_beside_its_speed() -> None:
    record = make_run("pass")[0]
    hop = record.hops[0]
    pairs = [("reauthored", "fakequant[fp16]"), ("fakequant[fp16]", "tflite-xnnpack[fp16]")]
    hops = [hop.model_copy(update={"from_": reference, "to": to}) for reference, to in pairs]
    found = quality_hop(record.model_copy(update={"hops": [*record.hops, *hops]}), "tflite-xnnpack[fp16]")
    assert found is not None
    assert found.name == "reauthored->fakequant[fp16]"
    assert quality_hop(record, "oracle") is None


def test_figures_that_say_little_are_named_and_steady_ones_are_not() -> None:
    assert unsteady_words(with_speed(steady("hf", 99.0))) == ""
    assert unsteady_words(with_speed(steady("hf", 99.0, others=None))) == ""
    said = unsteady_words(with_speed(steady("hf", 9.0, spread=0.2), steady("reauthored", 9.0, others=1.25)))
    assert "hf (spread 20 %, while others kept 0 cores busy)" in said
    assert "reauthored (spread 0 %, while others kept 1.25 cores busy)" in said


def test_every_page_shows_the_table_and_why_a_stage_is_not_in_it(tmp_path: Path) -> None:
    record = with_speed(
        steady("tflite-xnnpack", 1204.4), StageSpeed(stage="tflite-builtin", why_not="the stage crashed")
    )
    frame = make_run("pass")[1]
    page = write_report(tmp_path, record, frame).read_text(encoding="utf-8")
    out = io.StringIO()
    print_summary(record, frame, tmp_path, Console(file=out, width=100))
    for text in (page, summary(record, tmp_path), out.getvalue()):
        assert "1,204" in text
        assert "2 threads, each stage alone" in text
        assert "tflite-builtin was not measured: the stage crashed" in " ".join(text.split())
    assert 'href="#speed"' in page


def test_the_table_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    stages = [steady("tflite-xnnpack", 12345.6, spread=1.2), steady("tflite-reference[dynamic_int4_block128]", 0.01)]
    out = io.StringIO()
    print_summary(with_speed(*stages), make_run("pass")[1], tmp_path, Console(file=out, width=80))
    head = next(line for line in out.getvalue().splitlines() if line.startswith("stage") and "flips" in line)
    assert "PPL" in head
    assert "tflite-xnnpack" in out.getvalue()


def test_a_run_without_it_says_nothing_of_speed(tmp_path: Path) -> None:
    record, frame = make_run("pass")
    assert 'id="speed"' not in write_report(tmp_path, record, frame).read_text(encoding="utf-8")
    assert "tok/s" not in summary(record, tmp_path)
