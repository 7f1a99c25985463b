"""Conversations: one input whose turns continue a KV cache, and one line for each that cannot be run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.inputs.decode import to_draw
from harness.inputs.given import check_jsonl, inputs_from_jsonl
from harness.inputs.tokens import TokenInput, describe_schedule, schedule, schedule_of

VOCAB, CACHE = 100, 64


@dataclass(frozen=True)
class Sizes:
    prefill: list[int] = field(default_factory=lambda: [4, 8])
    kv_cache_len: int = CACHE


class Letters:
    """A tokenizer of letters that begins a sequence with token 1."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [*([1] if add_special_tokens else []), *(ord(letter) % VOCAB for letter in text)]

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(map(str, token_ids))


def read(tmp_path: Path, *lines: object, tokenizer: Letters | None = None) -> list[TokenInput]:
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    check_jsonl(file)
    return inputs_from_jsonl(file, tokenizer, VOCAB, CACHE)


def test_each_prompt_is_prefilled_where_the_cache_stands_and_each_reply_is_decoded(tmp_path: Path) -> None:
    turns = [{"tokens": [1, 2, 3, 4, 5, 6], "reply": [7, 8]}, {"tokens": [9, 10, 11]}, {"tokens": [12]}]
    (item,) = read(tmp_path, {"id": "chat", "turns": turns})
    assert item == TokenInput("chat", tuple(range(1, 13)), None, 1, earlier=((5, 3), (2, 1)))
    steps = describe_schedule(schedule_of(item, Sizes()))
    assert steps == "prefill_8[0:5] decode[5:8] prefill_4[8:10] decode[10:12]"


def test_a_text_that_goes_on_gets_no_token_that_begins_one(tmp_path: Path) -> None:
    turns = [{"text": "ab", "reply": "c"}, {"text": "de"}]
    (item,) = read(tmp_path, {"turns": turns}, tokenizer=Letters())
    assert item.tokens == (1, *(ord(letter) % VOCAB for letter in "abcde"))
    assert (item.id, item.text, item.earlier, item.decode_tail) == ("line-1", "ab\nc\nde", ((2, 2),), 1)


def test_a_conversation_of_text_and_ids_counts_as_ids(tmp_path: Path) -> None:
    (item,) = read(tmp_path, {"turns": [{"text": "ab"}, {"tokens": [5], "reply": "c"}]}, tokenizer=Letters())
    assert item.text is None


def test_what_the_reference_draws_follows_the_last_turn(tmp_path: Path) -> None:
    chosen = read(tmp_path, {"turns": [{"tokens": [1, 2, 3], "reply": [4]}, {"tokens": [5, 6, 7]}]})
    (item,) = to_draw([], chosen, 4, CACHE)
    whole = TokenInput(item.id, (*item.tokens, 8, 8, 8, 8), None, item.decode_tail, earlier=item.earlier)
    assert describe_schedule(schedule_of(whole, Sizes())) == "prefill_4[0:2] decode[2:4] prefill_4[4:6] decode[6:11]"


def test_a_prompt_that_no_prefill_can_take_any_more_is_decoded() -> None:
    item = TokenInput("full", tuple(range(1, 13)), None, 1, earlier=((6, 1),))
    steps = describe_schedule(schedule_of(item, Sizes(kv_cache_len=12)))
    assert steps == "prefill_8[0:6] decode[6] prefill_4[7:11] decode[11]"
    assert describe_schedule(schedule_of(item, Sizes([8], 12))) == "prefill_8[0:6] decode[6:12]"


turn_counts = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=5)


@given(turn_counts, st.sampled_from([[4], [8], [4, 8], [1]]), st.integers(0, 12))
def test_every_position_is_run_once_in_order_and_no_step_writes_past_the_cache(
    counts: list[tuple[int, int]], prefill: list[int], room: int
) -> None:
    length = sum(map(sum, counts))
    *earlier, (_, tail) = counts
    item = TokenInput("any", tuple(range(1, length + 1)), None, tail, earlier=tuple(earlier))
    sizes = Sizes(prefill, max(length + room, *prefill))
    steps = schedule_of(item, sizes)
    assert [at for step in steps for at in range(step.start, step.start + step.valid)] == list(range(length))
    assert all(step.start + step.size <= sizes.kv_cache_len for step in steps)
    end = 0
    for prefilled, decoded in counts:
        end += prefilled + decoded
        replies = set(range(end - decoded, end))
        assert replies <= {step.start for step in steps if step.signature == "decode"}


def test_one_turn_runs_as_an_input_without_turns_does(tmp_path: Path) -> None:
    one, other = read(tmp_path, {"turns": [{"tokens": [1, 2, 3, 4, 5]}]}, {"tokens": [1, 2, 3, 4, 5]})
    assert schedule_of(one, Sizes()) == schedule_of(other, Sizes()) == schedule(5, 1, [4, 8], CACHE)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"turns": []}, '"turns" is not a list with something in it; write {"turns": '),
        ({"turns": "hello"}, '"turns" is not a list'),
        ({"turns": [["a"]]}, "turn 1 is not an object; write "),
        ({"turns": [{"tokens": [1]}, {}]}, 'turn 2: neither of "text" and "tokens"; write '),
        ({"turns": [{"text": "a", "tokens": [1]}]}, 'turn 1: both of "text" and "tokens"; write '),
        ({"turns": [{"tokens": [1], "replies": [2]}]}, "turn 1: unknown key 'replies'; the keys are"),
        ({"turns": [{"text": 5}]}, 'turn 1: "text" is not a string; write '),
        ({"turns": [{"tokens": [1, True]}]}, 'turn 1: "tokens" holds true; give whole numbers only'),
        ({"turns": [{"tokens": [1], "reply": 3}]}, 'turn 1: "reply" is not text nor a list of token ids; write '),
        ({"turns": [{"tokens": [1], "reply": []}]}, 'turn 1: "reply" is not a list with something in it; write '),
        ({"turns": [{"tokens": [1], "reply": None}]}, 'turn 1: "reply" is not text nor a list of token ids; write '),
        ({"turns": [{"tokens": [1], "reply": ""}]}, 'turn 1: "reply" is empty; give what is answered, or leave'),
        ({"turns": [{"tokens": [1]}, {"tokens": [2, 700]}]}, "turn 2: token 700 is outside the model's vocabulary"),
        ({"turns": [{"tokens": [1]}], "decode_tail": 1}, '"decode_tail" is of one prompt, and turns say'),
        ({"turns": [{"tokens": [1]}], "text": "a"}, 'both of "text" and "turns"; write '),
        ({"turns": [{"tokens": [1] * 40}, {"tokens": [2] * 40}]}, "80 tokens in 2 turns do not fit the KV cache of 64"),
        ({"turns": [{"text": "   "}]}, "turn 1 is empty; give some text"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_one_line_that_names_line_and_remedy(
    tmp_path: Path, line: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError) as error:
        read(tmp_path, line, tokenizer=Letters())
    assert str(error.value).startswith(f"{tmp_path / 'in.jsonl'}:1: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_text_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"in\.jsonl:1: turn 1: text needs a tokenizer and there is none"):
        read(tmp_path, {"turns": [{"text": "a"}]})
