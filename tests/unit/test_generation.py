"""Generated tokens beside each other: where stages part, what is a tie, and what each is asked to run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.compare.generation import OwnWay, Steps
from harness.inputs.tokens import Step
from harness.jobs.driver import Abilities, Called
from harness.jobs.facts import Facts
from harness.jobs.generate import Line
from harness.jobs.job import JobInput
from harness.names.stages import BUILTIN, FAKEQUANT, FAKEQUANT_BUILTIN, HF, ORACLE, REAUTHORED, XNNPACK, named
from harness.pipeline.generation import generation_findings, prompts_of, why_lost, with_twins
from harness.processes.scheduler import TaskResult
from harness.record.generation import GeneratedPrompt, Generation, StageGeneration
from harness.store.trace import Trace

VOCABULARY, STEPS = 6, 4
INT8 = "dynamic_int8"
NOISE = 1e-3


def logits(*choices: tuple[int, float], second: int = 5) -> np.ndarray:
    """`[steps, vocabulary]`: at each step a token, and by how much its logit is above that of `second`."""
    made = np.zeros((len(choices), VOCABULARY), np.float32)
    made[:, second] = 1
    for step, (token, margin) in enumerate(choices):
        made[step, token] = 1 + margin
    return made


RIGHT = logits((1, 2.0), (2, 2.0), (3, 0.5 * NOISE), (4, 2.0))
OTHER = logits((1, 2.0), (2, 2.0), (3, -0.5 * NOISE), (4, 2.0))  # at step 2 another token, by less than the noise


def steps(**more: np.ndarray) -> Steps:
    exact = RIGHT.astype(np.float64)
    exact[0, 0] += NOISE  # hf is off by that at the first step
    own = {name.replace("_", "-"): values for name, values in more.items()}
    return Steps((1, 2, 3, 4), 7, {HF: RIGHT, ORACLE: exact, **own})


def own(values: np.ndarray) -> OwnWay:
    return OwnWay([int(row.argmax()) for row in values], "length")


def test_the_same_tokens_differ_nowhere() -> None:
    found = steps(reauthored=RIGHT + 1).stage(REAUTHORED, own(RIGHT))
    assert (found.same, found.steps, found.differences) == (4, 4, [])
    assert found.kl_max == pytest.approx(0, abs=1e-9)


def test_within_the_noise_another_token_is_a_tie() -> None:
    found = steps(reauthored=OTHER).stage(REAUTHORED, own(OTHER))
    assert found.same == 2
    (difference,) = found.differences
    assert (difference.kind, difference.step, difference.position) == ("tie", 2, 9)
    assert (difference.token, difference.own, difference.against) == (3, 5, HF)
    assert difference.noise == pytest.approx(NOISE)
    assert difference.margin == pytest.approx(0.5 * NOISE, rel=1e-3)


def test_above_the_noise_it_is_a_fault_and_the_next_stage_inherits_it() -> None:
    wrong = RIGHT.copy()
    wrong[3, 0] = 9
    made = steps(reauthored=wrong, tflite_xnnpack=wrong)
    assert [(one.step, one.kind) for one in made.stage(REAUTHORED, own(wrong)).faults] == [(3, "fault")]
    (inherited,) = made.stage(XNNPACK, own(wrong)).differences
    assert (inherited.kind, inherited.against) == ("inherited", REAUTHORED)


def test_a_stage_is_compared_with_the_nearest_one_that_ran() -> None:
    wrong = RIGHT.copy()
    wrong[0, 3] = 9
    (found,) = steps(tflite_builtin=wrong).stage(BUILTIN, own(wrong)).differences
    assert (found.kind, found.against) == ("fault", HF)


def test_what_is_not_finite_is_a_fault_though_the_token_be_right() -> None:
    broken = RIGHT.copy()
    broken[1, 0] = np.nan
    kinds = [(one.step, one.kind) for one in steps(reauthored=broken).stage(REAUTHORED, own(RIGHT)).differences]
    assert (1, "fault") in kinds


def test_without_an_oracle_nothing_is_judged() -> None:
    found = Steps((1, 2, 3, 4), 7, {HF: RIGHT, REAUTHORED: OTHER}).stage(REAUTHORED, own(OTHER))
    assert [one.kind for one in found.differences] == ["not judged"]


def test_a_recipe_has_a_price_and_its_runtime_the_step_of_its_grid() -> None:
    dear = RIGHT.copy()
    dear[1, 0] = 9
    faked, ran = named(FAKEQUANT, INT8), named(XNNPACK, INT8)
    near = dear.copy()
    near[3, 0] = near[3, 4] + 0.05  # another token at step 3, by less than one step of the grid makes
    plain = dear.copy()
    plain[0, 1] += 0.1
    exact = RIGHT.astype(np.float64)
    known = {HF: RIGHT, ORACLE: exact, REAUTHORED: RIGHT, faked: dear, ran: near}
    with_grid = Steps((1, 2, 3, 4), 7, known, {faked: plain})
    assert [one.kind for one in with_grid.stage(faked, own(dear)).differences] == ["price"]
    assert [(one.step, one.kind) for one in with_grid.stage(ran, own(near)).differences] == [
        (1, "inherited"),
        (3, "fault"),
    ]
    close = dear.copy()
    close[3, 0] = close[3, 4] - 0.05
    known = {**known, faked: close, ran: near}
    found = Steps((1, 2, 3, 4), 7, known, {faked: plain}).stage(ran, own(near))
    assert [(one.step, one.kind) for one in found.differences][-1] == (3, "tie")


class Counting:
    """A driver whose most likely token is the last one plus one, but where it was told to say another."""

    prefill = (4,)

    def __init__(self, kv_cache_len: int = 32, pads: bool = True, says: dict[int, int] | None = None) -> None:
        self.can = Abilities(pads=pads, slots=True, signatures=True)
        self.kv_cache_len, self.says = kv_cache_len, says or {}
        self.calls: list[Step] = []

    def fresh(self) -> Any:
        return ()

    def call(self, step: Step, tokens: Sequence[int], cache: Any) -> Called:
        assert len(cache) == step.start, "the cache holds what came before"
        self.calls.append(step)
        made = np.zeros((step.valid, 50), np.float32)
        for at, token in enumerate(tokens[: step.valid]):
            made[at, self.says.get(step.start + at, token + 1)] = 1
        return Called(made, (*cache, *tokens[: step.valid]))

    def slots(self, cache: Any) -> dict[str, np.ndarray]:
        return {}

    @contextmanager
    def with_threads(self, threads: int) -> Any:
        yield self


def line(driver: Counting, tokens: int = 6, stops: Sequence[int] = (), follow: list[int] | None = None) -> Line:
    asked = SimpleNamespace(
        tokens=tokens,
        stops=list(stops),
        follow=None if follow is None else {"prompt": follow},
        own=driver.can.pads,
        job=SimpleNamespace(dimensions=SimpleNamespace(tokens=40)),
    )
    return Line(driver, asked, JobInput(id="prompt", tokens=[10, 11, 12]))  # type: ignore[arg-type]


def test_the_reference_goes_its_own_way(tmp_path: Path) -> None:
    driver = Counting()
    own_line = line(driver)
    own_line.follow(tmp_path)
    assert own_line.own() == ([13, 14, 15, 16, 17, 18], "length")
    assert [step.signature for step in driver.calls] == ["prefill_4", *["decode"] * 6], "the last token needs no call"
    assert Trace.open(tmp_path).covered("logits") == [(0, 6)]


def test_a_conversation_goes_on_from_the_cache_that_its_turns_left(tmp_path: Path) -> None:
    driver = Counting()
    talk = replace(line(driver), item=JobInput(id="prompt", tokens=[*range(10, 19)], decode_tail=1, earlier=[(2, 2)]))
    talk.follow(tmp_path)
    steps = [(step.signature, step.start, step.valid) for step in driver.calls]
    turns = [("prefill_4", 0, 2), ("decode", 2, 1), ("decode", 3, 1), ("prefill_4", 4, 4), ("decode", 8, 1)]
    assert steps[:5] == turns
    assert talk.own() == ([19, 20, 21, 22, 23, 24], "length")


def test_a_conversation_is_decoded_as_the_run_decodes_it() -> None:
    talk = JobInput(id="talk", tokens=[*range(12)], decode_tail=5, earlier=[(2, 2)], drawn=3)
    plain = JobInput(id="plain", tokens=[*range(12)], decode_tail=5, drawn=3)
    prepared = SimpleNamespace(inputs=[talk, plain], edges=[])
    found = prompts_of(prepared)  # type: ignore[arg-type]
    assert [(len(item.tokens), item.decode_tail, item.earlier) for item in found] == [(9, 2, [(2, 2)]), (9, 1, [])]


def test_it_ends_at_a_stop_token_and_at_the_end_of_the_cache(tmp_path: Path) -> None:
    stopped = line(Counting(), stops=[15])
    stopped.follow(tmp_path / "a")
    assert stopped.own() == ([13, 14, 15], "stop token")
    assert Trace.open(tmp_path / "a").covered("logits") == [(0, 3)]
    full = line(Counting(kv_cache_len=5))
    full.follow(tmp_path / "b")
    assert full.own() == ([13, 14, 15], "cache full"), "three in the prompt, two decoded, and the last needs no slot"


def test_a_stage_that_says_another_token_goes_on_twice(tmp_path: Path) -> None:
    driver = Counting(says={4: 30})
    other = line(driver, follow=[13, 14, 15, 16, 17, 18])
    other.follow(tmp_path)
    assert other.own() == ([13, 14, 30, 31, 32, 33], "length")
    forced = Trace.open(tmp_path).load("logits")[0].argmax(axis=1)
    assert forced.tolist() == [13, 14, 30, 16, 17, 18], "after the reference's tokens it says what it says"


def test_another_token_may_come_after_the_reference_has_stopped(tmp_path: Path) -> None:
    other = line(Counting(says={4: 30}), stops=[15, 32], follow=[13, 14, 15])
    other.follow(tmp_path)
    assert other.own() == ([13, 14, 30, 31, 32], "stop token")
    same = line(Counting(), stops=[15], follow=[13, 14, 15])
    same.follow(tmp_path / "same")
    assert same.own() == ([13, 14, 15], "stop token")


def test_what_is_not_asked_for_its_own_way_takes_one_step_for_all(tmp_path: Path) -> None:
    given = [13, 14, 15, 16, 17, 18]
    driver = Counting(pads=False)
    line(driver, follow=given).follow(tmp_path / "one")
    line(Counting(), follow=given).follow(tmp_path / "each")
    assert [step.size for step in driver.calls] == [4, 1, 5]
    one, each = (Trace.open(tmp_path / name).load("logits") for name in ("one", "each"))
    assert np.array_equal(one, each)


def test_a_step_without_a_number_in_the_reference_excuses_no_other_step() -> None:
    right, exact = RIGHT.copy(), RIGHT.astype(np.float64)
    exact[0, 0] += NOISE
    right[3, 0] = np.inf
    wrong = RIGHT.copy()
    wrong[0, 3] = 45
    found = Steps((1, 2, 3, 0), 7, {HF: right, ORACLE: exact, REAUTHORED: wrong}).stage(REAUTHORED, own(wrong))
    assert [(one.step, one.kind) for one in found.differences] == [(0, "fault"), (3, "not judged")]


def test_without_the_stage_that_has_the_numbers_of_the_file_a_runtime_is_not_judged() -> None:
    """The price of the recipe is in the difference, and would be an error of the runtime."""
    name = named(BUILTIN, "weight_only_int8")
    wrong = logits((1, 2.0), (3, 2.0), (3, 0.5 * NOISE), (4, 2.0))
    made = replace(steps(), logits={**steps().logits, REAUTHORED: RIGHT, name: wrong})
    (found,) = made.stage(name, own(wrong)).differences
    assert (found.against, found.kind) == (REAUTHORED, "not judged")


def prompt_of(*stages: str) -> GeneratedPrompt:
    made = [StageGeneration(stage=name, tokens=[1], stopped="length", same=1, steps=1) for name in stages]
    return GeneratedPrompt(input="prompt", prompt_tokens=3, reference=[], stages=made)


def test_a_stage_that_generated_nothing_names_its_process_and_who_is_not_judged_for_it() -> None:
    fake, runs = named(FAKEQUANT, INT8), named(XNNPACK, INT8)
    result = TaskResult(f"{fake}.generate", "crashed", detail="ValueError: no")
    lost = {fake: why_lost(result)}
    found = Generation(tokens=1, prompts=[prompt_of(HF, XNNPACK, runs)], lost=lost)
    (finding,) = generation_findings(found, {})
    assert finding.severity == "error"
    assert finding.what == (
        f"{fake} generated nothing: the process {fake}.generate crashed: ValueError: no; so {runs} is not judged by "
        "what is generated"
    )


def test_a_stage_takes_over_what_its_twin_generates() -> None:
    one, other, runs = named(FAKEQUANT, "fp16"), named(FAKEQUANT_BUILTIN, "fp16"), named(BUILTIN, "fp16")
    said = {one: TaskResult(one, "ok", value=Facts(twins={FAKEQUANT_BUILTIN: {}}))}
    ended = {f"{name}.generate": TaskResult(f"{name}.generate", "ok") for name in (HF, one, runs)}
    found = with_twins(ended, (HF, one, other, runs), said)
    assert found[f"{other}.generate"].name == f"{one}.generate"
    assert set(found) == {*ended, f"{other}.generate"}
    assert with_twins(ended, (HF, one, other, runs), {one: TaskResult(one, "ok", value=Facts())}) == ended
