"""What a check of a bundle says, on values made by hand: each thing that can be wrong is told by its code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from bundles import METADATA, PIECES, TOKENIZER, litertlm, parts_of, task

from harness.bundle.metadata import LlmMetadata
from harness.bundle.reader import read_bundle
from harness.bundle.sections import Form
from harness.bundle.writer import Part, sentencepiece_part
from harness.bundling import content, spoken
from harness.bundling.answers import Answer, add
from harness.bundling.make import form_named
from harness.bundling.published import affixes_of
from harness.bundling.texts import CONVERSATIONS, PROBE, TEXTS
from harness.errors import UsageError
from harness.flatbuffer.signatures import DeviceShape
from harness.names.codes import FindingCode
from harness.record.bundle import BundleContents, BundleReport
from harness.stages.litert_lm.examine import Examined, Rendered, Tokenized, joined

STOPS = [2]


def rendered(name: str = "one turn", text: str = "<s>Hi", ids: Sequence[int] = (1, 7)) -> Rendered:
    return Rendered(name=name, engine=text, engine_ids=list(ids), published=text, published_ids=list(ids))


def examined(**changes: Any) -> Examined:
    """An engine that does all as the checkpoint has it, without a start token; changed as asked."""
    right = Examined(
        engine="engine 1",
        stops=[[2]],
        probe=[5],
        published_probe=[5],
        put_before=0,
        texts=3,
        tried=4,
        has_template=True,
        rendered=[rendered()],
    )
    return right.model_copy(update=changes)


def codes_of(answers: Sequence[Answer], severity: str = "error") -> set[str]:
    return {one.code for answer in answers for one in answer.findings if one.severity == severity}


def test_an_engine_that_does_all_as_the_checkpoint_has_it_is_right() -> None:
    answers = spoken.answers(examined(), STOPS)
    assert [answer.row().result for answer in answers] == ["ok"] * 6


_EMPTY = rendered().model_copy(update={"engine": "", "engine_ids": [], "engine_why": "INTERNAL: no +"})
_OTHER = rendered().model_copy(update={"engine": "<s>Ho", "engine_ids": [1, 8]})


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"stops": [[3]]}, FindingCode.BUNDLE_STOP_DIFFERS, "does not stop at token 2"),
        ({"stops": []}, FindingCode.BUNDLE_STOP_DIFFERS, "does not stop at token 2"),
        ({"stops": [[2, 4]]}, FindingCode.BUNDLE_STOP_DIFFERS, "does not stop at token 2"),
        (
            {"start": [1], "put_before": 1},
            FindingCode.BUNDLE_START_DIFFERS,
            "puts token 1 before a prompt, and Hugging Face nothing",
        ),
        (
            {"published_probe": [1, 5]},
            FindingCode.BUNDLE_START_DIFFERS,
            "puts nothing before a prompt, and Hugging Face token 1",
        ),
        (
            {"start": [1], "put_before": 2, "published_probe": [1, 5]},
            FindingCode.BUNDLE_START_DIFFERS,
            "puts 2 tokens before a prompt, and the metadata names 1",
        ),
        ({"put_before": None, "prefill_why": "no"}, FindingCode.BUNDLE_ENGINE_REFUSES, "does not prefill"),
        (
            {"other": [Tokenized(text="a b", engine=[1, 2], published=[1, 3])]},
            FindingCode.BUNDLE_TOKENS_DIFFER,
            "from token 1 on [2] instead of [3]",
        ),
        (
            {"random_other": Tokenized(text="0", engine=[], published=[3])},
            FindingCode.BUNDLE_TOKENS_DIFFER,
            "on nothing instead of [3]",
        ),
        ({"rendered": [_EMPTY]}, FindingCode.BUNDLE_TEMPLATE_EMPTY, "'one turn' to nothing (INTERNAL: no +)"),
        (
            {"rendered": [rendered(), _OTHER]},
            FindingCode.BUNDLE_TEMPLATE_DIFFERS,
            "from character 4 on 'o' instead of 'i'",
        ),
        (
            {"start": [1], "put_before": 1, "published_probe": [1, 5]},
            FindingCode.BUNDLE_START_DIFFERS,
            "begins with tokens 1, 1",
        ),
    ],
)
def test_what_is_wrong_has_its_code_and_is_told(changes: dict[str, Any], code: FindingCode, said: str) -> None:
    answers = spoken.answers(examined(**changes), STOPS)
    assert code in codes_of(answers)
    sentences = [finding.what for answer in answers for finding in answer.findings]
    assert any(said in sentence for sentence in sentences)
    assert all("; " in sentence for sentence in sentences)


def test_a_start_token_that_stands_for_the_one_of_the_template_is_right() -> None:
    left_out = rendered().model_copy(update={"engine": "Hi", "engine_ids": [7]})
    said = examined(start=[1], put_before=1, published_probe=[1, 5], rendered=[left_out])
    assert [answer.row().result for answer in spoken.answers(said, STOPS)] == ["ok"] * 6


def test_a_stop_token_more_is_a_warning() -> None:
    answers = spoken.answers(examined(stops=[[2], [9]]), STOPS)
    assert codes_of(answers) == set()
    assert codes_of(answers, "warning") == {FindingCode.BUNDLE_STOP_DIFFERS}


@pytest.mark.parametrize(
    "changes", [{"rendered": []}, {"tried": 0}, {"rendered": [Rendered(name="a", published_why="refused")]}]
)
def test_what_was_not_compared_is_no_pass(changes: dict[str, Any]) -> None:
    report = BundleReport(bundle=_nothing(), model="m")
    add(report, spoken.answers(examined(**changes), STOPS))
    assert report.exit_code == 1
    assert "not checked" in [check.result for check in report.checks]


def test_a_lost_engine_is_exit_code_3() -> None:
    assert BundleReport(bundle=_nothing(), model="m", lost="killed by SIGSEGV").exit_code == 3


def _nothing() -> BundleContents:
    return BundleContents(file="f", form=".litertlm", size=0, sections=[], rest=0)


def without(kept: Callable[[list[Part]], list[Part]], folder: Path) -> Answer:
    return content.sections(read_bundle(litertlm(folder, kept(parts_of(folder)))))


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (lambda parts: parts[:2], "no section holds a flatbuffer"),
        (lambda parts: [parts[0], parts[2]], "no section holds a tokenizer"),
        (lambda parts: parts[1:], "no section holds a metadata"),
        (lambda parts: [*parts, parts[2]], "2 sections hold a flatbuffer"),
        (lambda parts: [*parts, sentencepiece_part(PIECES)], "2 sections hold a tokenizer"),
        (lambda parts: [*parts, parts[0]], "2 sections hold a metadata"),
    ],
)
def test_a_section_too_few_or_too_many_is_told(
    kept: Callable[[list[Part]], list[Part]], said: str, tmp_path: Path
) -> None:
    answer = without(kept, tmp_path)
    assert {finding.code for finding in answer.findings} == {FindingCode.BUNDLE_SECTIONS_WRONG}
    assert any(said in finding.what for finding in answer.findings)


def test_a_whole_bundle_has_its_sections(tmp_path: Path) -> None:
    assert without(list, tmp_path).row().result == "ok"
    assert content.sections(read_bundle(task(tmp_path))).row().result == "ok"


@pytest.mark.parametrize("code", [1, 7, 99])
def test_a_section_that_is_not_looked_at_is_a_warning(code: int, tmp_path: Path) -> None:
    answer = without(lambda parts: [*parts, Part(code, b"x")], tmp_path)
    assert codes_of([answer], "warning") == {FindingCode.BUNDLE_NOT_UNDERSTOOD}


def test_a_json_tokenizer_in_a_task_is_wrong(tmp_path: Path) -> None:
    answer = content.sections(read_bundle(task(tmp_path, tokenizer=TOKENIZER)))
    assert codes_of([answer]) == {FindingCode.BUNDLE_SECTIONS_WRONG}


def test_the_context_is_that_of_the_kv_cache() -> None:
    assert content.context(METADATA, DeviceShape([32], 256), Form.LITERTLM).row().result == "ok"
    other = content.context(METADATA, DeviceShape([32], 128), Form.LITERTLM)
    assert codes_of([other]) == {FindingCode.BUNDLE_CONTEXT_DIFFERS}
    assert codes_of([content.context(LlmMetadata(), DeviceShape([32], 128), Form.LITERTLM)])
    assert content.context(LlmMetadata(), DeviceShape([32], 128), Form.TASK).row().result == "ok"
    assert content.context(None, DeviceShape([32], 128), Form.LITERTLM).row().result == "not checked"


def test_what_stands_around_a_message_is_told_by_what_it_adds() -> None:
    def chat(messages: Sequence[dict[str, Any]]) -> str:
        return "".join(f"<{one['role']}>{one['content']}</>" for one in messages)

    assert affixes_of(chat) == {
        "system": ("<system>", "</>"),
        "user": ("<user>", "</>"),
        "model": ("<assistant>", "</>"),
    }


def test_a_template_without_system_or_without_a_pattern_gives_what_there_is() -> None:
    def no_system(messages: Sequence[dict[str, Any]]) -> str | None:
        return None if messages[0]["role"] == "system" else "".join(f"[{one['content']}]" for one in messages)

    assert affixes_of(no_system) == {"user": ("[", "]"), "model": ("[", "]")}
    assert affixes_of(lambda messages: "nothing of it") == {}
    assert affixes_of(lambda messages: None) == {}


def test_parts_stand_for_their_sum() -> None:
    parts = [dict(one) for one in CONVERSATIONS["two parts"]]
    assert joined(parts) == [{"role": "user", "content": "What is the capital of France? In one word."}]


def test_the_texts_are_such_as_an_engine_takes() -> None:
    assert len(set(TEXTS)) == len(TEXTS)
    assert all("\0" not in text for text in (*TEXTS, PROBE))


def test_a_bundle_is_named_by_its_end() -> None:
    assert form_named(Path("a.litertlm")) is Form.LITERTLM
    assert form_named(Path("a.b.task")) is Form.TASK
    with pytest.raises(UsageError, match=r"ends in \.litertlm or \.task"):
        form_named(Path("a.tflite"))
