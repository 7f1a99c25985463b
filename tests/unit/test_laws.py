"""The laws hold of a stage that is right, and each mistake breaks those that are about it, at the smallest input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from toy_driver import KEYS, SLOTS, VOCABULARY, ToyDriver

from harness.errors import UsageError
from harness.fuzz.laws import judge_laws
from harness.fuzz.search import search
from harness.inputs.strategies import searched_inputs
from harness.inputs.tokens import Step, TokenInput, schedule
from harness.jobs.driver import Abilities, Cache, Called, Driver
from harness.jobs.job import JobInput
from harness.judge.rules import load_rules
from harness.laws.check import check_laws, read_checks
from harness.laws.job import passed_again
from harness.laws.judging import LawJudge, none_checked, with_inherited
from harness.laws.laws import LAWS
from harness.laws.ways import Conversation, Ran, bits_apart, prefills, run_steps
from harness.names.laws import LAW_WORDS, LawName
from harness.names.taps import LOGITS
from harness.record.laws import LawResult
from harness.store.trace import TraceWriter

STAGE = "toy"
FAR = SLOTS - 1
TOKENS = [3, 1, 4, 1, 5, 9, 2]
# What each mistake breaks; it may bend others too.
FAULTS = {
    "slot": {LawName.OWN_SLOTS},
    "padding": {LawName.PADDING, LawName.PREFILL_IS_DECODES},
    "mask of the last slot": {LawName.PADDING},
    "clears": {LawName.OWN_SLOTS},
    "state": {LawName.SECOND_PROMPT},
    "order": {LawName.ANY_ORDER},
    "random": {LawName.RERUN},
    "decode position": {LawName.PREFILL_IS_DECODES},
    "late state": {LawName.SECOND_PASS},
    "threads": {LawName.THREADS},
}
# What a stage is asked for beside it: of every length, some decoded.
OTHERS = [JobInput(id=f"of {n}", tokens=[7, 2, 9, 4, 1, 8][:n], decode_tail=n % 2) for n in (1, 3, 6)]
# The smallest input that a search leaves: tokens, and how many of them are decoded.
SMALLEST = {
    "slot": ((0,), 1),
    "padding": ((0, 0), 1),
    "mask of the last slot": ((0,), 1),
    "state": ((0,), 1),
    "decode position": ((0, 0), 1),
}


def trace(driver: Driver, item: JobInput, folder: Path) -> None:
    """As the stage of a run would have left it."""
    steps = schedule(len(item.tokens), item.decode_tail, driver.prefill, driver.kv_cache_len)
    ran = run_steps(driver, steps, item.tokens)
    with TraceWriter(folder / item.id, len(item.tokens)) as writer:
        for position, row in ran.rows.items():
            writer.put(LOGITS, row[None, None], position)
        for tap, values in ran.slots.items():
            writer.put(tap, values[:, : len(item.tokens)])


def judged(
    driver: Driver, folder: Path, item: JobInput, inputs: Sequence[JobInput] | None = None
) -> dict[str, LawResult]:
    trace(ToyDriver(dtype=np.float64), item, folder / "oracle")
    trace(ToyDriver(), item, folder / "hf")
    check_laws(driver, item, VOCABULARY, folder / STAGE, OTHERS if inputs is None else inputs)
    return {one.law: one for one in LawJudge(folder, "toy", load_rules()).judged(STAGE, item.id)}


def asked(tail: int = 1) -> JobInput:
    return JobInput(id="asked", tokens=TOKENS, decode_tail=tail)


def test_every_law_has_words_and_a_place_in_the_order() -> None:
    assert [law.name for law in LAWS] == list(LawName) == list(LAW_WORDS)


@pytest.mark.parametrize("tail", [0, 1, 2, len(TOKENS)])
def test_all_laws_hold_of_a_stage_that_is_right(tail: int, tmp_path: Path) -> None:
    found = judged(ToyDriver(), tmp_path, asked(tail))
    assert {one.verdict for one in found.values()} <= {"holds", "not applicable"}
    away = {law: one.why for law, one in found.items() if one.verdict == "not applicable"}
    if tail == len(TOKENS):
        assert away == {
            "padding": "no step is padded",
            "prefill-is-decodes": "no token is prefilled",
            "chunks-are-one": "fewer than two tokens are prefilled",
        }
    else:
        assert not away
        assert all(found[law.name].figure == 0.0 for law in LAWS if law.bends), "no bit differs"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_breaks_the_law_that_is_about_it(fault: str, tmp_path: Path) -> None:
    found = judged(ToyDriver(fault), tmp_path, asked())
    broken = {law for law, one in found.items() if one.verdict == "broken"}
    assert FAULTS[fault] <= broken
    assert all(found[law].why and found[law].tap and found[law].position is not None for law in broken)
    assert not any(one.verdict == "not run" for one in found.values())


def test_the_slot_that_is_written_is_named(tmp_path: Path) -> None:
    one = judged(ToyDriver("slot"), tmp_path, asked())["own-slots"]
    assert (one.tap, one.position) == (KEYS, len(TOKENS))
    assert one.why.startswith(f"{KEYS} differs at slot {len(TOKENS)}, by ")


def test_state_that_shows_late_is_seen_by_a_second_pass_alone(tmp_path: Path) -> None:
    found = judged(ToyDriver("late state"), tmp_path, asked())
    assert [law for law, one in found.items() if one.verdict == "broken"] == ["second-pass"]
    assert found["second-pass"].why.startswith("logits differs at position ")
    assert " of input of " in found["second-pass"].why


def test_one_input_is_no_second_pass(tmp_path: Path) -> None:
    one = judged(ToyDriver(), tmp_path, asked(), OTHERS[:1])["second-pass"]
    assert (one.verdict, one.why) == ("not applicable", "there is one input alone")


def test_a_second_pass_takes_each_input_once_and_cuts_long_and_many_ones() -> None:
    long = JobInput(id="long", tokens=list(range(200)), decode_tail=7)
    text = JobInput(id="text", tokens=[1, 2], logits_only=True)
    found = passed_again([*OTHERS, OTHERS[0].model_copy(update={"id": "again"}), long, text])
    assert [item.id for item in found] == ["of 1", "of 3", "of 6", "long"]
    assert (len(found[-1].tokens), found[-1].decode_tail) == (96, 1)
    many = passed_again([JobInput(id=str(n), tokens=[n]) for n in range(20)])
    assert [many[0].id, many[-1].id, len(many)] == ["0", "19", 8]


class EveryCallWrites(ToyDriver):
    """Each call writes the same number into one slot far from its own."""

    def call(self, step: Step, tokens: Sequence[int], cache: Cache) -> Called:
        called = super().call(step, tokens, cache)
        called.cache[KEYS][FAR] = 7
        return called


def test_a_slot_that_every_call_writes_alike_is_seen_on_a_fresh_cache(tmp_path: Path) -> None:
    one = judged(EveryCallWrites(), tmp_path, asked())["own-slots"]
    assert (one.verdict, one.position) == ("broken", FAR)


def test_what_rounding_bends_is_measured_and_holds(tmp_path: Path) -> None:
    """Two threads that add in another order: a few units in the last place."""
    one = judged(ToyDriver("threads by rounding"), tmp_path, asked())["threads"]
    assert one.verdict == "holds"
    assert one.figure is not None
    assert one.limit is not None
    assert 0 < one.figure < one.limit
    broken = judged(ToyDriver("threads"), tmp_path / "broken", asked())["threads"]
    assert broken.verdict == "broken"
    assert f"> {broken.limit:g} at logits" in broken.why


@pytest.mark.parametrize("fault", SMALLEST)
def test_a_search_leaves_the_smallest_counterexample(fault: str, tmp_path: Path) -> None:
    def judge(item: TokenInput) -> object:
        given = JobInput(id="fuzz", tokens=list(item.tokens), decode_tail=item.decode_tail)
        driver = ToyDriver(fault)
        trace(ToyDriver(dtype=np.float64), given, tmp_path / "oracle")
        trace(ToyDriver(), given, tmp_path / "hf")
        check_laws(driver, given, VOCABULARY, tmp_path / STAGE)
        return judge_laws(LawJudge(tmp_path, "toy", load_rules()), [STAGE], given.id)

    inputs = searched_inputs(VOCABULARY, ToyDriver().kv_cache_len, ToyDriver().prefill)
    found = search(inputs, judge, max_examples=30, seed=0)  # type: ignore[arg-type]
    assert found.smallest is not None
    assert (found.smallest.tokens, found.smallest.decode_tail) == SMALLEST[fault]
    assert found.fault is not None
    assert found.fault.hop == STAGE
    assert found.fault.tap in list(LawName)


def test_a_search_of_what_is_right_finds_nothing(tmp_path: Path) -> None:
    def judge(item: TokenInput) -> object:
        given = JobInput(id="fuzz", tokens=list(item.tokens), decode_tail=item.decode_tail)
        check_laws(ToyDriver(), given, VOCABULARY, tmp_path / STAGE)
        return judge_laws(LawJudge(tmp_path, "toy", load_rules()), [STAGE], given.id)

    inputs = searched_inputs(VOCABULARY, ToyDriver().kv_cache_len, ToyDriver().prefill)
    found = search(inputs, judge, max_examples=40, seed=1)  # type: ignore[arg-type]
    assert found.fault is None
    assert found.tried > 20


class Refusing(ToyDriver):
    def call(self, step: object, tokens: object, cache: object) -> object:  # type: ignore[override]
        raise RuntimeError("the runtime\ndoes not like this")


def test_what_cannot_be_run_is_said_and_is_no_pass(tmp_path: Path) -> None:
    found = judged(Refusing(), tmp_path, asked())
    assert {one.verdict for one in found.values()} == {"not run"}
    assert {one.why for one in found.values()} == {"the runtime does not like this"}


def test_a_stage_without_slots_or_padding_is_asked_for_neither(tmp_path: Path) -> None:
    driver = ToyDriver(can=Abilities(pads=False, slots=False, signatures=False))
    check_laws(driver, asked(), VOCABULARY, tmp_path / STAGE, OTHERS)
    away = [check.law for check in read_checks(tmp_path / STAGE, "asked") if check.outcome == "not applicable"]
    assert away == [LawName.PADDING, LawName.OWN_SLOTS, LawName.USED_CACHE]


def test_without_the_noise_of_the_place_nothing_is_measured(tmp_path: Path) -> None:
    check_laws(ToyDriver("threads"), asked(), VOCABULARY, tmp_path / STAGE)
    found = {one.law: one for one in LawJudge(tmp_path, "toy", load_rules()).judged(STAGE, "asked")}
    assert found["threads"].verdict == "not run"
    assert "what float32 costs there is not known" in found["threads"].why


def ran(rows: list[float], slots: list[float]) -> Ran:
    values = np.array(slots, np.float32).reshape(1, -1, 1, 1)
    return Ran({at: np.array([row], np.float32) for at, row in enumerate(rows)}, None, {KEYS: values})


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        (([1, np.nan], [0]), ([1, np.nan], [0]), None),
        (([1, 2], [0]), ([1, 3], [0]), (LOGITS, 1, 1.0)),
        (([1], [0, 5]), ([1], [0, 7]), (KEYS, 1, 2.0)),
        (([0.0], [0]), ([-0.0], [0]), (LOGITS, 0, 0.0)),
        (([1], [0]), ([np.nan], [0]), (LOGITS, 0, np.inf)),
    ],
)
def test_bits_are_compared_and_nan_is_like_nan(
    one: tuple[list[float], list[float]], other: tuple[list[float], list[float]], place: tuple[str, int, float] | None
) -> None:
    found = bits_apart(ran(*one), ran(*other))
    assert (found and tuple(found)[:3]) == place


def test_slots_past_those_that_count_are_not_compared() -> None:
    assert bits_apart(ran([1], [0, 5]), ran([1], [0, 7]), slots=1) is None


def test_prefills_cover_every_position_once_and_say_where_none_fits() -> None:
    driver = ToyDriver()
    steps = prefills(driver, 3, 14)
    assert [(step.size, step.start, step.valid) for step in steps] == [(8, 3, 8), (4, 11, 3)]
    with pytest.raises(UsageError, match="no prefill signature fits at position 22 of a KV cache of 24"):
        prefills(driver, 22, 24)


def test_the_other_conversation_has_other_tokens_everywhere_and_reaches_further() -> None:
    talk = Conversation(ToyDriver(), TOKENS, 1, VOCABULARY)
    assert all(one != other for one, other in zip(TOKENS, talk.other_tokens, strict=False))
    assert len(talk.other_tokens) > max(step.start + step.size for step in talk.steps)
    assert talk.padding not in (0, *TOKENS[-2:])


def test_the_first_stage_that_breaks_a_law_is_named_and_others_inherit_it() -> None:
    def broken(stage: str, law: str) -> LawResult:
        return LawResult(stage=stage, law=law, verdict="broken", why="w")

    laws = [broken("a", "rerun"), broken("b", "rerun"), broken("c", "rerun"), broken("c", "padding")]
    found = with_inherited(laws, {"a": "", "b": "a", "c": "b"})
    assert [one.inherited for one in found] == ["", "a", "a", ""]


def test_a_stage_of_which_nothing_was_checked_says_so_of_every_law() -> None:
    found = none_checked("a", "not run", "the stage crashed")
    assert [one.law for one in found] == list(LawName)
    assert {(one.verdict, one.why) for one in found} == {("not run", "the stage crashed")}
