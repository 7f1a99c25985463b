"""The laws in a run: what they are checked on, which findings they make, and how they are shown."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from record_factory import make_run

from harness.jobs.job import JobInput
from harness.names.laws import LAW_WORDS, LawName
from harness.pipeline.laws import LAW_TOKENS, WHOLE_TOKENS, law_findings, laws_input
from harness.pipeline.options import Options
from harness.processes.scheduler import TaskResult
from harness.record.laws import LawResult
from harness.render.html import write_report
from harness.render.junit import write_junit
from harness.render.laws import law_rows, law_stages, law_words
from harness.render.markdown import summary


class Prepared:
    def __init__(self, *lengths: int) -> None:
        self.inputs = [JobInput(id=f"i{n}", tokens=[1] * n, decode_tail=min(2, n)) for n in lengths]


def asked(*lengths: int, **options: object) -> JobInput | None:
    return laws_input(Prepared(*lengths), Options("m", **{"laws": True, **options}))  # type: ignore[arg-type]


def test_they_are_checked_on_the_first_tokens_of_the_longest_input() -> None:
    assert asked(3, 60, 5) == JobInput(id="i60", tokens=[1] * LAW_TOKENS, decode_tail=1)
    assert asked(1) == JobInput(id="i1", tokens=[1], decode_tail=1)
    assert asked(3, laws=False) is None


def test_an_input_of_a_file_is_taken_as_it_is_up_to_a_length() -> None:
    file = Path("inputs.jsonl")
    assert asked(3, 60, WHOLE_TOKENS + 1, inputs_file=file) == JobInput(id="i60", tokens=[1] * 60, decode_tail=2)
    longer = asked(WHOLE_TOKENS + 1, inputs_file=file)
    assert longer is not None
    assert len(longer.tokens) == LAW_TOKENS


def test_a_conversation_is_checked_where_there_is_nothing_else_and_as_one_prompt() -> None:
    talk = JobInput(id="talk", tokens=[1] * 9, decode_tail=2, earlier=[(2, 2)])
    prepared, options = Prepared(4), Options("m", laws=True, inputs_file=Path("inputs.jsonl"))
    prepared.inputs.append(talk)
    assert laws_input(prepared, options) == JobInput(id="i4", tokens=[1] * 4, decode_tail=2)  # type: ignore[arg-type]
    prepared.inputs = [talk]
    alone = laws_input(prepared, options)  # type: ignore[arg-type]
    assert alone == JobInput(id="talk", tokens=[1] * 9, decode_tail=2)


def law(stage: str, name: str, verdict: str, why: str = "", **more: object) -> LawResult:
    return LawResult(stage=stage, law=name, verdict=verdict, why=why, **more)  # type: ignore[arg-type]


ENDED = {name: TaskResult(name, "ok") for name in ("hf", "reauthored", "tflite-xnnpack")}
BROKEN = [
    law("hf", "padding", "not applicable", "it runs the valid tokens alone"),
    law("reauthored", "rerun", "broken", "logits differs at position 3, by 0.5 at most", tap="logits", position=3),
    law("tflite-xnnpack", "rerun", "broken", "logits differs at position 2, by 0.5 at most", inherited="reauthored"),
    law("tflite-xnnpack", "padding", "broken", "logits differs at position 4, by 0.1 at most"),
]


def test_what_is_broken_is_an_error_of_the_first_stage_and_inherited_by_the_others() -> None:
    first, second = law_findings(BROKEN, ENDED)
    assert (first.stage, first.code, first.severity) == ("reauthored", "law-broken", "error")
    assert first.what == (
        f"reauthored breaks 1 law: {LAW_WORDS[LawName.RERUN]} (rerun), but logits differs at position 3, by 0.5 at "
        "most; tflite-xnnpack inherits from it"
    )
    assert (second.stage, second.code) == ("tflite-xnnpack", "law-broken")
    assert "padding" in second.what
    assert "rerun" not in second.what


def test_what_could_not_be_checked_is_an_error_but_for_a_stage_that_did_not_end() -> None:
    lost = [law("hf", name, "not run", "no") for name in ("rerun", "threads")]
    (found,) = law_findings(lost, ENDED)
    assert (found.code, found.severity) == ("law-not-checked", "error")
    assert found.what == "hf: rerun and threads could not be checked: no"
    assert not law_findings(lost, {"hf": TaskResult("hf", "crashed")})


HELD = [
    law("hf", "rerun", "holds"),
    law("hf", "padding", "not applicable", "it runs the valid tokens alone"),
    law("tflite-xnnpack", "rerun", "holds"),
    law("tflite-xnnpack", "threads", "holds", figure=1.25, limit=4.0, tap="block.0.cache.v", position=1),
]


def with_laws(kind: str, laws: list[LawResult]) -> object:
    record, frame = make_run(kind)
    return record.model_copy(update={"laws": laws}), frame


def test_in_words() -> None:
    record, _ = with_laws("pass", HELD)  # type: ignore[misc]
    assert law_words(record) == (
        "All 3 laws hold in 2 stages; nearest to a limit 1.25 of 4 (threads, tflite-xnnpack, block.0.cache.v)."
    )
    record, _ = with_laws("fail", [*BROKEN, law("hf", "rerun", "not run", "no")])  # type: ignore[misc]
    assert law_words(record) == "Of 4 laws 3 broken, 1 not run."
    assert law_words(make_run("pass")[0]) == ""


def test_as_a_table_a_law_that_does_not_apply_is_no_pass() -> None:
    record, _ = with_laws("pass", HELD)  # type: ignore[misc]
    assert law_stages(record) == ["hf", "tflite-xnnpack"]
    rows = {row.law: row.cells for row in law_rows(record)}
    assert rows["padding"][0] == ("-", "", "it runs the valid tokens alone")
    assert rows["threads"] == [("-", "", ""), ("holds", "", "excess 1.25 of 4 at block.0.cache.v")]
    record, _ = with_laws("fail", BROKEN)  # type: ignore[misc]
    broken = {row.law: row.cells for row in law_rows(record)}["rerun"]
    assert [cell[:2] for cell in broken] == [("-", ""), ("broken", "bad"), ("broken", "bad")]
    assert broken[2][2].startswith("as in reauthored; ")


@pytest.mark.parametrize("laws", [HELD, BROKEN])
def test_pages_and_junit_show_them(laws: list[LawResult], tmp_path: Path) -> None:
    record, frame = with_laws("fail", laws)  # type: ignore[misc]
    assert law_words(record) in summary(record, tmp_path)
    text = write_report(tmp_path, record, frame).read_text()
    assert '<section id="laws">' in text
    assert all(one.law in text for one in laws)
    cases = ElementTree.parse(write_junit(tmp_path, record)).iter("testcase")
    of_laws = [case for case in cases if ".laws of " in case.attrib["classname"]]
    assert len(of_laws) == len([one for one in laws if one.verdict != "not applicable"])
    failing = [case for case in of_laws if case.find("failure") is not None]
    assert len(failing) == len([one for one in laws if one.verdict == "broken"])


def test_a_run_without_laws_has_no_section_of_them(tmp_path: Path) -> None:
    record, frame = make_run("pass")
    assert '<section id="laws">' not in write_report(tmp_path, record, frame).read_text()


def test_a_run_that_was_not_asked_to_check_them_says_so() -> None:
    record, _ = make_run("pass")
    assert law_words(record) == "", "a record from before the laws"
    options = {**record.options, "laws": False}
    assert law_words(record.model_copy(update={"options": options})) == "Laws were not checked; --laws checks them."
