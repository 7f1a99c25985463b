"""The engine that apps use beside the stages: how its tokens are judged, and when it is not run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.bundle.identity import ids_of, text_of
from harness.compare.generation import OwnWay, Steps
from harness.jobs.job import JobInput
from harness.jobs.loops import EngineJob
from harness.names.loops import ENGINE, GREEDY, engine_of, loops_named
from harness.names.stages import FAKEQUANT, FLOAT, HF, KERAS, ORACLE, REAUTHORED, XNNPACK, named
from harness.pipeline import engine
from harness.pipeline.engine import engine_tasks
from harness.record.generation import StageGeneration
from harness.stages.litert_lm.generate import generated

INT8 = "dynamic_int8"
NOISE = 1e-3
RIGHT = np.array([[0, 3, 1, 0], [0, 1, 3, 0], [2, 0, 1, 2 + NOISE], [0, 3, 1, 0]], np.float32)  # 1, 2, 3 (a tie), 1
STEP = np.array([[0, 0, 0.5, 0]] * 4, np.float32)  # of the grid of the inputs of layers


def column(recipe: str, *followed: int, grid: bool = False, without: str = "") -> StageGeneration:
    exact = RIGHT.astype(np.float64)
    exact[0, 0] += NOISE
    logits = {name: RIGHT for name in (HF, named(FAKEQUANT, recipe), named(XNNPACK, recipe)) if name != without}
    unrounded = {named(FAKEQUANT, recipe): RIGHT - STEP} if grid else {}
    steps = Steps((1, 2, 3, 1), 5, {**logits, ORACLE: exact}, unrounded)
    return steps.engine(engine_of(recipe), OwnWay(followed, "length"), followed, "an engine 1.0")


def test_the_same_tokens_are_no_difference_and_the_runtime_is_named() -> None:
    found = column(FLOAT, 1, 2, 3, 1)
    assert (found.stage, found.same, found.steps, found.differences) == (ENGINE, 4, 4, [])
    assert found.runtime == "an engine 1.0"


def test_every_step_is_judged_by_the_margin_there() -> None:
    found = column(FLOAT, 1, 0, 0, 99)
    assert [(one.step, one.kind, one.against) for one in found.differences] == [
        (1, "fault", XNNPACK),
        (2, "tie", XNNPACK),
        (3, "fault", XNNPACK),
    ]


def test_one_step_of_the_grid_is_noise_for_a_file_that_has_one_and_for_no_other() -> None:
    (first,) = column(INT8, 2, 2, 3, 1).differences
    assert (first.kind, first.against) == ("fault", named(XNNPACK, INT8))
    other = column(INT8, 1, 1, 3, 1, grid=True).differences[0]
    assert other.noise == pytest.approx(0.5, abs=1e-3)
    assert other.kind == "fault"


def test_nobody_knows_the_noise_without_the_numbers_of_the_file_nor_the_price_without_its_runtime() -> None:
    for without in (named(FAKEQUANT, INT8), named(XNNPACK, INT8)):
        (only,) = column(INT8, 2, 2, 3, 1, without=without).differences
        assert only.kind == "not judged"


def test_names_say_which_file_the_engine_runs() -> None:
    float32, int8, greedy = loops_named([ENGINE, "hf", f"{ENGINE}[{INT8}]", GREEDY])
    assert (float32.stage, int8.stage, greedy.name) == (XNNPACK, named(XNNPACK, INT8), GREEDY)
    assert (float32.follows, greedy.follows) == (True, False)


def told(own: str = REAUTHORED, layout: str = "transposed", stages: tuple[str, ...] = (HF, XNNPACK)) -> Any:
    prepared: Any = SimpleNamespace(
        own_stage=own, variant=SimpleNamespace(kv_layout=layout), kv_cache_len=8, weights_mb=1.0
    )
    prompts = [JobInput(id="fits", tokens=[1] * 7), JobInput(id="fills", tokens=[1] * 8)]
    place: Any = SimpleNamespace(timeout=60.0)
    return engine_tasks(place, prepared, stages, prompts, 4, {}, lambda name: f"{name}.generate")


def test_it_is_not_run_without_the_layout_or_the_extra_and_says_what_brings_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "--kv-layout transposed" in told(layout="default").not_run[ENGINE]
    monkeypatch.setattr(engine, "why_not", lambda extra: "make extras")
    assert told().not_run == {ENGINE: "make extras"}
    assert told().tasks == {}


def test_a_prompt_that_fills_the_cache_is_named_and_the_others_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "why_not", lambda extra: "")
    found = told()
    assert list(found.tasks) == [ENGINE]
    assert "--kv-cache-len 12" in found.not_run[f"{ENGINE} after fills"]


def test_there_is_no_column_without_xnnpack_and_for_keras_models() -> None:
    for found in (told(stages=(HF,)), told(own=KERAS)):
        assert (found.tasks, found.not_run) == ({}, {})


class Counting:
    """An engine that says one more than the last token, and 9 after 4."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []

    def generate(self, prompt: list[int], count: int) -> list[int]:
        self.given.append(list(prompt))
        said = [*prompt]
        for _ in range(count):
            said.append(9 if said[-1] == 4 else said[-1] + 1)
        return said[len(prompt) :]


@pytest.mark.parametrize(
    ("context", "own", "followed", "sessions"),
    [
        (20, [3, 4, 9, 10], [3, 4, 9, 6], [[1, 2], [1, 2, 3, 4, 5]]),
        (5, [3, 4, 9], [3, 4, 9], [[1, 2]]),
        (3, [3], [3], [[1, 2]]),
    ],
    ids=["in a new session", "up to the end of the context", "which leaves one token"],
)
def test_it_goes_on_with_the_tokens_of_the_reference(
    context: int, own: list[int], followed: list[int], sessions: list[list[int]]
) -> None:
    asked = EngineJob(flatbuffer="f", vocabulary=9, context=context, prompts={}, follow={}, tokens=4)
    counting: Any = Counting()
    assert generated(counting, asked, [1, 2], [3, 4, 5, 6]) == (own, followed)
    assert counting.given == sessions


def test_ids_go_through_text_and_what_is_no_list_of_ids_is_refused() -> None:
    assert ids_of(text_of([504, 0, 7])) == [504, 0, 7]
    assert ids_of("") == []
    with pytest.raises(ValueError, match="not a list of ids"):
        ids_of("<1>and")
