"""What the terminal promises: the verdict in words, the first fault, nothing missing shown as passed."""

from __future__ import annotations

import functools
import io
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from record_factory import BLOCKS, CRASHED, FAULTY_TAP, NAN_TAP, WHY_MISSING, make_run
from rich.console import Console

from harness.compare.runs import compare_runs
from harness.names.taps import tap_order
from harness.render.numbers import number, percent
from harness.render.sentences import missing_groups, suspicion
from harness.render.terminal import print_diff, print_explain, print_summary

FOLDER = Path("reports/smollm2/20261114-093012-a1b2")


@functools.cache
def summary(kind: str, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(*make_run(kind), FOLDER, console)
    return console.file.getvalue()


@functools.cache
def explanation(kind: str) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_explain(*make_run(kind), console)
    return console.file.getvalue()


def test_a_passing_run_says_so_and_names_what_was_not_compared() -> None:
    text = summary("pass", 120)
    assert text.startswith("PASS  smollm2")
    assert f"{BLOCKS} taps missing: block.*.attn.probs - {WHY_MISSING}" in " ".join(text.split())
    assert f"{BLOCKS} taps could not be compared" in text
    assert "edge-parity explain" not in text


def test_a_failing_run_shows_hop_tap_modules_rule_and_next_command() -> None:
    text = summary("fail")
    assert f"Parity is lost in hf->reauthored, first at {FAULTY_TAP}." in text
    for expected in (
        "transformer_blocks.2.mlp.out",
        "judged by  float32",
        "times what float32 itself",
        "Suspect the model in",
    ):
        assert expected in text
    assert f"edge-parity explain {FOLDER}" in text
    assert f"edge-parity explore {FOLDER}" in text


def test_a_passing_run_shows_its_worst_figures_beside_their_limits_under_the_headline() -> None:
    record, _ = make_run("pass")
    worst = max((hop.worst for hop in record.hops if hop.worst), key=lambda worst: worst.excess or 0)
    top = " ".join(summary("pass").split("stages")[0].split())
    assert f"Worst excess {number(worst.excess)} of 4 ({worst.tap}, " in top
    assert re.search(r"worst at a single position \S+ of 16 \(", top)


def test_the_worst_taps_are_those_nearest_to_their_limit_and_not_those_with_the_largest_figure() -> None:
    record, frame = make_run("pass", 4)
    frame = frame.copy()
    mine = frame["hop"] == "hf->reauthored"
    frame.loc[mine & (frame["tap"] == "block.1.attn.q") & (frame["input"] == "one-token"), "excess"] = 7.0
    frame.loc[mine & (frame["tap"] == "block.2.attn.q") & (frame["input"] == "long"), "excess"] = 3.2
    frame.loc[mine & (frame["tap"] == "block.3.attn.q") & (frame["input"] == "long"), "position_excess"] = 15.1
    console = Console(file=io.StringIO(), width=200)
    print_summary(record, frame, FOLDER, console)
    expected = (
        "hf->reauthored worst: block.3.attn.q position 15.1 of 16, block.2.attn.q 3.20 of 4, block.1.attn.q 7 of 16"
    )
    assert expected in console.file.getvalue()


def test_the_one_hop_of_a_run_promises_no_other_hops() -> None:
    record, frame = make_run("fail", 3)
    alone = record.model_copy(update={"hops": record.hops[:1]})
    console = Console(file=io.StringIO(), width=80)
    print_explain(alone, frame[frame["hop"] == "hf->reauthored"], console)
    text = console.file.getvalue()
    assert "owned by the step hf->reauthored, the only one in this run" in text
    assert "the other steps" not in text


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, "Suspect the kernels of tflite-xnnpack"),
        ({"verdict": "fail", "first_failing_tap": NAN_TAP}, "Suspect the conversion"),
        ({"verdict": "fail", "first_failing_tap": "logits"}, "Suspect the kernels or the conversion"),
        ({"taps_compared": 0}, "nothing else was compared"),
    ],
)
def test_the_suspect_is_the_converter_only_where_both_flatbuffer_stages_fail_alike(
    other: dict[str, object], expected: str
) -> None:
    record, _ = make_run("fail")
    assert record.first_fault is not None
    fault = record.first_fault.model_copy(update={"hop": "reauthored->tflite-xnnpack", "tap": NAN_TAP})
    hops = [*record.hops[:2], record.hops[2].model_copy(update=other)]
    assert expected in suspicion(record.model_copy(update={"faults": [fault], "hops": hops}))


def test_a_run_from_before_limits_were_stored_is_still_shown() -> None:
    record, frame = make_run("fail", 3)
    old = frame.drop(columns=["excess_limit", "position_excess_limit"])
    console = Console(file=io.StringIO(), width=80)
    print_summary(record, old, FOLDER, console)
    print_explain(record, old, console)
    assert f"worst: logits 332, block.2.out 330, {FAULTY_TAP} 327" in console.file.getvalue()


def test_shapes_that_differ_are_not_shown_as_nan() -> None:
    record, frame = make_run("pass", 4)
    frame = frame.copy()
    mine = (frame["hop"] == "hf->reauthored") & (frame["tap"] == "block.1.attn.q")
    figures = ["max_abs_err", "rel_l2", "excess", "position_excess", "nan_count", "inf_count"]
    frame.loc[mine, figures] = math.nan
    frame.loc[mine, "verdict"] = "fail"
    console = Console(file=io.StringIO(), width=200)
    print_summary(record, frame, FOLDER, console)
    assert "hf->reauthored worst: block.1.attn.q not comparable, " in console.file.getvalue()


def test_a_crashed_stage_is_neither_a_pass_nor_a_zero() -> None:
    text = summary("crash")
    assert f"Stage {CRASHED} crashed." in text
    assert f"{len(tap_order(BLOCKS))} taps missing: every tap" in text
    assert "0 %" in text
    assert "SIGSEGV" in explanation("crash")


def test_nan_is_told_as_not_finite() -> None:
    assert f"{NAN_TAP} not finite" in summary("nan")
    assert "not finite" in explanation("nan")


def test_explain_shows_agreeing_taps_before_the_fault_and_failing_ones_after() -> None:
    lines = explanation("fail").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(">"))
    assert FAULTY_TAP in lines[at]
    assert "pass" in lines[at - 1]
    assert "FAIL" in lines[at + 1]
    assert "owned by the step hf->reauthored" in "\n".join(lines)


def test_explain_of_a_passing_run_says_that_nothing_fails() -> None:
    assert "the run passed" in explanation("pass")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("kind", ["fail", "crash", "nan"])
def test_tables_fit_the_width_and_no_stage_name_is_broken(kind: str, width: int) -> None:
    text = summary(kind, width)
    tables = [line for line in text.splitlines() if line.startswith(("->", "─"))]
    assert all(len(line) <= width for line in tables)
    assert any(line.startswith("->tflite-xnnpack") for line in tables)


def test_hostile_strings_are_text_and_not_markup_or_escapes() -> None:
    for text in (summary("hostile"), explanation("hostile")):
        assert "[bold red]m[/]" in text
        assert not set(text) & {"\x1b", "\x00", "\u202e"}


def test_without_a_terminal_there_are_no_escape_codes_and_paths_stay_on_one_line() -> None:
    console = Console(file=io.StringIO(), width=80)
    long = Path("/a/rather/long/place/for/reports") / ("x" * 90) / "20261114-093012-a1b2"
    print_summary(*make_run("fail"), long, console)
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert f"{long}/report.html\n" in text


def test_diff_names_the_taps_that_began_to_fail() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_diff(compare_runs(*make_run("pass"), *make_run("fail")), console)
    text = console.file.getvalue()
    assert "verdict: pass -> fail" in text
    assert "newly passing: none" in text
    first = text.split("newly failing")[1].splitlines()[1]
    assert FAULTY_TAP in first


def test_summary_and_diff_say_how_well_the_reference_predicts_text_and_how_far_it_reaches() -> None:
    record, frame = make_run("pass")
    assert "NLL is 3.58 nats per token" in summary("pass")
    assert "float16 ends at 65,504" in " ".join(summary("pass").split())
    assert record.likelihood is not None
    each = [one.model_copy(update={"nll": 5.29}) for one in record.likelihood.inputs]
    worse = record.model_copy(update={"likelihood": record.likelihood.model_copy(update={"inputs": each})})
    console = Console(file=io.StringIO(), width=80)
    print_diff(compare_runs(record, frame, worse, frame), console)
    assert "NLL on their common text, nats per token: 3.58 -> 5.29" in console.file.getvalue()
    without = Console(file=io.StringIO(), width=80)
    old = record.model_copy(update={"likelihood": None})
    print_diff(compare_runs(old, frame, old, frame), without)
    assert "NLL" not in without.file.getvalue()


def test_a_variant_stands_beside_the_model_and_a_diff_over_two_says_so() -> None:
    record, frame = make_run("pass")
    transposed = record.model_copy(update={"variant": "kv=transposed"})
    console = Console(file=io.StringIO(), width=80)
    print_summary(transposed, frame, FOLDER, console)
    print_diff(compare_runs(record, frame, transposed, frame), console)
    assert "PASS  smollm2  variant kv=transposed" in console.file.getvalue()
    assert "variant: default -> kv=transposed" in console.file.getvalue()
    assert "variant" not in summary("pass")


def test_numbers_have_three_digits_and_shares_are_never_rounded_up_to_all() -> None:
    values = (0, None, float("nan"), float("inf"), 1.234, 308.04, 1.5e-7, 0.99999, 12345.6, 543)
    shown = ["0", "-", "NaN", "inf", "1.23", "308", "1.50e-07", "1.00", "1.23e+04", "543"]
    assert [number(value) for value in values] == shown
    assert [percent(value) for value in (1.0, 0.9998, 0.5, None)] == ["100 %", "99.9 %", "50 %", "-"]


def test_missing_taps_the_record_does_not_explain_are_counted_too() -> None:
    record, _ = make_run("pass")
    hop = record.hops[1].model_copy(update={"missing": record.hops[1].missing[:1]})
    assert [(group.count, group.why) for group in missing_groups(hop)] == [
        (BLOCKS - 1, "the record does not say why"),
        (1, WHY_MISSING),
    ]


@pytest.mark.process
def test_importing_the_terminal_renderer_loads_neither_pandas_nor_rich() -> None:
    code = "import sys, harness.render.terminal; print([m for m in ('pandas', 'rich', 'jinja2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
