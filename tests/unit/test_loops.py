"""Files that generate by themselves: where each parts from the reference, and what is said of one that was not run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.compare.generation import OwnWay, Steps
from harness.jobs.job import JobInput
from harness.jobs.loops import LoopSaid
from harness.names.codes import FindingCode
from harness.names.loops import GREEDY, LOOPS, TEXT, loops_of
from harness.names.stages import HF, KERAS, ORACLE, REAUTHORED
from harness.pipeline import loops
from harness.pipeline.generation import Asked, generation_findings, generation_of, task_of
from harness.pipeline.loops import loop_findings, own_way, why_not_text, with_own_text, with_prompt
from harness.processes.scheduler import TaskResult
from harness.record.generation import GeneratedPrompt, Generation, StageGeneration
from harness.render.generation import summary
from harness.store.flex import INSTALL

GREEDY_LOOP = LOOPS[0]
NOISE = 1e-3
LOGITS = np.array([[0, 3, 1, 0], [0, 1, 3, 0], [2, 0, 1, 2 + NOISE]], np.float32)  # says 1, 2, 3; the last is a tie


def steps(**more: np.ndarray) -> Steps:
    exact = LOGITS.astype(np.float64)
    exact[0, 0] += NOISE
    return Steps((1, 2, 3), 5, {HF: LOGITS, ORACLE: exact, **more})


def loop(*tokens: int, **more: np.ndarray) -> StageGeneration:
    return steps(**more).loop(GREEDY_LOOP, OwnWay(tokens, "length"), "a runtime 1.0")


def test_the_same_tokens_are_no_difference_and_the_runtime_is_named() -> None:
    found = loop(1, 2, 3)
    assert (found.stage, found.same, found.steps, found.differences) == (GREEDY, 3, 3, [])
    assert found.runtime == "a runtime 1.0"


@pytest.mark.parametrize(
    ("tokens", "step", "kind"),
    [((1, 2, 0), 2, "tie"), ((1, 1, 3), 1, "fault"), ((0, 0, 0), 0, "fault"), ((1, 99, 3), 1, "fault")],
    ids=["within the noise", "above it", "at once", "no token of the vocabulary"],
)
def test_the_first_other_token_is_judged_by_the_margin_there_and_no_later_one(
    tokens: tuple[int, ...], step: int, kind: str
) -> None:
    found = loop(*tokens)
    (only,) = found.differences
    assert (found.same, only.step, only.kind, only.own) == (step, step, kind, tokens[step])
    assert only.position == 5 + step
    assert found.wrong is (kind == "fault")


def test_what_the_model_says_too_that_the_file_was_converted_of_is_inherited() -> None:
    other = LOGITS.copy()
    other[1, 0] = 9
    (only,) = loop(1, 0, 3, keras=other).differences
    assert (only.kind, only.against) == ("inherited", KERAS)


def prepared(**more: Any) -> Any:
    return SimpleNamespace(**{"own_stage": KERAS, "kv_cache_len": 8, "stop_tokens": [7], "checkpoint": "/none", **more})


def test_a_file_is_held_to_as_many_tokens_as_the_reference_may_say() -> None:
    item = JobInput(id="p", tokens=[1] * 6)
    said = LoopSaid(tokens={"p": [3, 4, 5, 0, 0]}, runtime="r", sha256="s")
    assert own_way(said, item, prepared(), 5) == OwnWay([3, 4, 5], "cache full")
    said = LoopSaid(tokens={"p": [3, 7, 5, 5, 5]}, runtime="r", sha256="s")
    assert own_way(said, item, prepared(), 5) == OwnWay([3, 7], "stop token")
    assert own_way(said, JobInput(id="p", tokens=[1]), prepared(stop_tokens=[]), 5).stopped == "length"


def test_another_prompt_is_told_by_its_first_token_and_its_answer_is_not_compared() -> None:
    found = with_prompt(loop(0, 0, 0), [5, 6, 7], [5, 9])
    assert found.other_text is not None
    assert (found.other_text.where, found.other_text.at) == ("prompt", 1)
    assert (found.other_text.own, found.other_text.expected) == ("6 7", "9")
    assert found.differences == []
    assert found.wrong
    longer = with_prompt(loop(1, 2, 3), [5, 6], [5])
    assert longer.other_text is not None
    assert (longer.other_text.at, longer.other_text.expected) == (1, "none")
    assert with_prompt(loop(1, 2, 3), [5], [5]).other_text is None


def test_another_text_is_told_by_its_first_character() -> None:
    found = with_own_text(loop(1, 2, 3), "a lamb", "a lamp")
    assert found.other_text is not None
    assert (found.other_text.where, found.other_text.at, found.other_text.own) == ("text", 5, "b")
    assert found.text == "a lamb"
    assert not with_own_text(loop(1, 2, 3), "a lamp", "a lamp").wrong


def record(*stages: StageGeneration, **more: Any) -> Generation:
    reference = StageGeneration(stage=HF, tokens=[1, 2, 3], stopped="length", same=3, steps=3)
    prompt = GeneratedPrompt(input="p", prompt_tokens=5, reference=[], stages=[reference, *stages])
    return Generation(tokens=3, prompts=[prompt], **more)


def test_text_that_should_be_another_fails_a_run_and_is_in_the_summary() -> None:
    found = record(with_own_text(loop(1, 2, 3), "a", "b"))
    (error,) = generation_findings(found, {})
    assert (error.severity, error.code) == ("error", FindingCode.GENERATES_OTHER_TEXT)
    assert found.wrong
    assert "0 of 1 texts are the reference's" in summary(found)
    assert "a tokenizer that is not the checkpoint's" in summary(found)


def test_what_was_not_run_is_a_warning_with_the_command_that_brings_it_and_no_pass() -> None:
    found = record(not_run={TEXT: f"'{INSTALL}' builds it"})
    (warning,) = generation_findings(found, {})
    assert (warning.severity, warning.code) == ("warning", FindingCode.LOOP_NOT_RUN)
    assert INSTALL in warning.what
    assert f"{TEXT} was not run" in summary(found)
    assert loop_findings({}, found.prompts) == []


def test_without_flex_or_a_tokenizer_text_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    item = JobInput(id="p", tokens=[1], text="a")
    monkeypatch.setattr(loops, "interpreter", lambda cache: None)
    assert INSTALL in why_not_text(prepared(), [item], False)
    monkeypatch.setattr(loops, "interpreter", lambda cache: Path("/bin/python"))
    assert "--chat" in why_not_text(prepared(), [item], True)
    assert why_not_text(prepared(), [], False) == "no prompt is a text; give --prompt TEXT"
    assert "no tokenizer.json" in why_not_text(prepared(checkpoint=str(tmp_path)), [item], False)


def test_other_routes_have_no_such_files() -> None:
    assert loops_of(REAUTHORED) == ()
    assert [loop.name for loop in loops_of(KERAS)] == [GREEDY, TEXT]


def test_a_file_whose_process_ends_badly_is_lost_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.jobs.generate import Generated
    from harness.pipeline import generation

    monkeypatch.setattr(generation, "prompts_of", lambda prepared: [])
    ended = {
        task_of(HF): TaskResult(task_of(HF), "ok", value=Generated()),
        task_of(TEXT): TaskResult(task_of(TEXT), "crashed", detail="the process with Flex was ended by SIGSEGV"),
    }
    place: Any = SimpleNamespace(traces=Path("/none"))
    found = generation_of(place, prepared(), ended, Asked(3, False))
    assert found is not None
    assert "SIGSEGV" in found.lost[TEXT]
    assert found.wrong
    (error,) = generation_findings(record(lost=found.lost), {})
    assert (error.severity, error.code) == ("error", FindingCode.GENERATION_NOT_RUN)
    assert "SIGSEGV" in error.what
