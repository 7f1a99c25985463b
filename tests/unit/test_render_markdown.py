"""What `summary.md` and `--github` promise: the verdict where a pull request shows it, and no string that acts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from record_factory import CRASHED, FAULTY_TAP, HOSTILE, KINDS, NAN_TAP, make_run

from harness.record.record import Finding
from harness.render.github import append_summary, not_run, shown_path, workflow_commands
from harness.render.markdown import plain, summary, write_summary

FOLDER = Path("reports/smollm2/20261114-093012-a1b2")
SPEC = "models/smollm2.py"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pass", ["## PASS smollm2", "The re-authored model is faithful", "Worst excess 1."]),
        ("fail", ["## FAIL smollm2", f"### First fault: <code>{FAULTY_TAP}</code>", "weight_bfloat16", "**FAIL**"]),
        ("nan", [f"### First fault: <code>{NAN_TAP}</code>", "TFLite on builtin kernels diverges"]),
        ("crash", [f"Stage <code>{CRASHED}</code> crashed: killed by SIGSEGV", "not compared"]),
    ],
)
def test_a_summary_says_verdict_fault_and_cause(kind: str, said: list[str]) -> None:
    text = summary(make_run(kind)[0], FOLDER)
    for words in said:
        assert words in text
    assert ("edge-parity explain reports/smollm2" in text) == (kind in ("fail", "nan"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_hop_is_a_row_of_the_same_width(kind: str) -> None:
    record, _ = make_run(kind)
    rows = [line for line in summary(record, FOLDER).splitlines() if line.startswith("|")]
    assert len(rows) == len(record.hops) + 2
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


def test_a_hostile_string_neither_formats_nor_links_nor_breaks_a_line() -> None:
    text = summary(make_run("hostile")[0], FOLDER)
    assert "<script" not in text
    assert not set(text) & {"\x1b", "\x00", "\u202e"}
    assert plain("@all [x](y) `z` | # _a_ <b> &c\nd") == (r"\@all \[x\](y) \`z\` \| \# \_a\_ &lt;b\> &amp;c d")


def test_what_looks_like_an_address_or_an_emoji_is_none() -> None:
    assert plain("https://a.b www.c.d :tada: re-authored: yes") == r"https\://a.b www\.c.d \:tada: re-authored: yes"


def test_long_lists_of_findings_are_cut_and_say_so() -> None:
    record, _ = make_run("pass")
    many = [Finding(kind="weights", severity="warning", what=f"key {i}") for i in range(14)]
    assert "- and 4 more" in summary(record.model_copy(update={"findings": many}), FOLDER)


def test_a_summary_lies_in_the_run_folder_and_names_where_that_will_be(tmp_path: Path) -> None:
    record, _ = make_run("fail")
    written = write_summary(tmp_path, FOLDER, record)
    assert (written.name, written.parent) == ("summary.md", tmp_path)
    assert f"edge-parity explain {FOLDER}\nedge-parity explore {FOLDER}\n" in written.read_text(encoding="utf-8")


def test_a_failing_hop_is_an_error_at_the_model_s_file_with_its_cause() -> None:
    lines = workflow_commands(make_run("fail")[0], SPEC)
    assert lines[0].startswith(
        f"::error file={SPEC},title=smollm2%3A parity::the re-authored model: hf->reauthored first at"
    )
    assert FAULTY_TAP in lines[0]
    assert "weight_bfloat16" in lines[0]
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]


def test_a_crash_is_an_error_and_a_pass_a_notice() -> None:
    assert workflow_commands(make_run("crash")[0], SPEC)[0].endswith(
        "stage tflite-xnnpack crashed: killed by SIGSEGV; run.log has what it said"
    )
    assert workflow_commands(make_run("pass")[0], SPEC)[0].startswith(f"::notice file={SPEC}")
    assert not_run("phi2", SPEC, "no weights").endswith("::not run: no weights")


def test_no_string_becomes_a_command_of_its_own() -> None:
    record, _ = make_run("hostile")
    what = "50 %\r\n::warning::mine"
    with_command = record.model_copy(update={"findings": [Finding(kind="config", severity="error", what=what)]})
    lines = workflow_commands(with_command, "models/a,b:c.py")
    assert not any("\n" in line or "\r" in line for line in lines)
    assert any(line.endswith("50 %25\ufffd%0A::warning::mine") for line in lines)
    assert all(line.startswith("::error file=models/a%2Cb%3Ac.py,title=") for line in lines)
    assert HOSTILE.split()[0] in "".join(lines)


def test_a_file_outside_the_repository_is_named_without_its_folders(tmp_path: Path) -> None:
    assert shown_path(tmp_path / "models" / "a.py", tmp_path) == "models/a.py"
    assert shown_path(Path("/elsewhere/b.py"), tmp_path) == "b.py"


def test_summaries_of_several_models_follow_each_other(tmp_path: Path) -> None:
    step = tmp_path / "step"
    for kind in ("pass", "fail"):
        append_summary(step, summary(make_run(kind)[0], FOLDER))
    assert [line for line in step.read_text(encoding="utf-8").splitlines() if line.startswith("## ")] == [
        "## PASS smollm2",
        "## FAIL smollm2",
    ]
