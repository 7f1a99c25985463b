"""What the terminal promises: the verdict in words, the first fault, nothing missing shown as passed."""

from __future__ import annotations

import functools
import io
import subprocess
import sys
from pathlib import Path

import pytest
from record_factory import CRASHED, FAULTY_TAP, NAN_TAP, WHY_MISSING, make_run
from rich.console import Console

from harness.diff import compare_runs
from harness.render import missing_groups, number, percent
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
    assert f"30 taps missing: block.*.attn.probs - {WHY_MISSING}" in text
    assert "30 taps could not be compared" in text
    assert "edge-parity explain" not in text


def test_a_failing_run_shows_hop_tap_modules_rule_and_next_command() -> None:
    text = summary("fail")
    assert f"Parity is lost in hf->reauthored, first at {FAULTY_TAP}." in text
    for expected in ("transformer_blocks.7.mlp.out", "excess <= 8", "FULLY_CONNECTED"):
        assert expected in text
    assert f"edge-parity explain {FOLDER}" in text


def test_a_crashed_stage_is_neither_a_pass_nor_a_zero() -> None:
    text = summary("crash")
    assert f"Stage {CRASHED} crashed." in text
    assert "543 taps missing: every tap" in text
    assert "0 %" in text
    assert "SIGSEGV" in explanation("crash")


def test_nan_is_shown_as_nan() -> None:
    assert f"{NAN_TAP} NaN" in summary("nan")
    assert "NaN" in explanation("nan")


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


def test_numbers_have_three_digits_and_shares_are_never_rounded_up_to_all() -> None:
    values = (0, None, float("nan"), float("inf"), 1.234, 308.04, 1.5e-7, 0.99999, 12345.6, 543)
    shown = ["0", "-", "NaN", "inf", "1.23", "308", "1.50e-07", "1.00", "1.23e+04", "543"]
    assert [number(value) for value in values] == shown
    assert [percent(value) for value in (1.0, 0.9998, 0.5, None)] == ["100 %", "99.9 %", "50 %", "-"]


def test_missing_taps_the_record_does_not_explain_are_counted_too() -> None:
    record, _ = make_run("pass")
    hop = record.hops[1].model_copy(update={"missing": record.hops[1].missing[:10]})
    assert [(group.count, group.why) for group in missing_groups(hop)] == [
        (20, "the record does not say why"),
        (10, WHY_MISSING),
    ]


def test_importing_the_terminal_renderer_loads_neither_pandas_nor_rich() -> None:
    code = "import sys, harness.render.terminal; print([m for m in ('pandas', 'rich', 'jinja2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
