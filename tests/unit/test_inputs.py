"""Inputs are valid, shared and told apart; schedules cover each position once; a bad file is named by its line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.inputs.given import inputs_from_jsonl, inputs_from_prompts
from harness.inputs.strategies import Scheduled, schedules
from harness.inputs.tokens import (
    DEFAULT_INPUT_IDS,
    TokenInput,
    default_inputs,
    describe_schedule,
    schedule,
)

VOCAB = 300


class Words:
    """One token per word, BOS first: enough of a tokenizer to see what is asked of one."""

    def encode(self, text: str) -> list[int]:
        return [1] + [5 + sum(word.encode()) % 200 for word in text.split()]

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(f"w{token}" for token in token_ids if token != 1)


def defaults(
    prefill: tuple[int, ...] = (32,), cache: int = 256, window: int | None = None, words: bool = False, seed: int = 0
) -> dict[str, TokenInput]:
    inputs = default_inputs(
        prefill=prefill,
        kv_cache_len=cache,
        vocab_size=VOCAB,
        window=window,
        tokenizer=Words() if words else None,
        prompt="The capital of France is",
        seed=seed,
    )
    return {item.id: item for item in inputs}


def run(item: TokenInput, prefill: tuple[int, ...], cache: int) -> str:
    return describe_schedule(schedule(len(item.tokens), item.decode_tail, prefill, cache))


def test_each_default_input_takes_its_own_way_through_the_signatures() -> None:
    ways = {name: run(item, (32,), 256) for name, item in defaults(words=True).items()}
    assert ways == {
        "one-token": "decode[0]",
        "prompt": "prefill_32[0:5] decode[5]",
        "padded": "prefill_32[0:19] decode[19:22]",
        "prefill-exact": "prefill_32[0:32]",
        "chunked": "prefill_32[0:32] prefill_32[32:64] prefill_32[64:80] decode[80]",
        "long": " ".join(f"prefill_32[{i}:{i + 32}]" for i in range(0, 160, 32)) + " prefill_32[160:191] decode[191]",
    }


def test_the_last_chunk_stays_padded_where_a_smaller_signature_would_fit_exactly() -> None:
    assert run(defaults((16, 32))["chunked"], (16, 32), 256).endswith("prefill_16[64:79] decode[79]")


def test_chunked_goes_on_by_decoding_where_no_second_chunk_fits() -> None:
    assert run(defaults((200,))["chunked"], (200,), 256) == "prefill_200[0:200] decode[200:203]"


def test_long_passes_the_sliding_window_twice_if_the_cache_holds_it() -> None:
    assert len(defaults(window=100)["long"].tokens) == 201
    assert len(defaults(window=512)["long"].tokens) == 256
    assert len(defaults(window=4)["long"].tokens) == 192


@given(
    cache=st.integers(1, 400),
    prefill=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    window=st.none() | st.integers(1, 500),
    words=st.booleans(),
)
def test_default_inputs_are_valid_whatever_the_sizes(
    cache: int, prefill: list[int], window: int | None, words: bool
) -> None:
    prefill[0] = min(prefill[0], cache)
    inputs = defaults(tuple(prefill), cache, window, words)
    assert tuple(inputs) == DEFAULT_INPUT_IDS
    for item in inputs.values():
        assert all(0 <= token < VOCAB for token in item.tokens)
        assert schedule(len(item.tokens), item.decode_tail, prefill, cache)


def test_seeded_inputs_are_the_same_each_time_and_avoid_control_tokens() -> None:
    assert defaults(seed=7) == defaults(seed=7) != defaults(seed=8)
    assert min(min(item.tokens) for item in defaults().values()) >= 3
    # A change of one length must not change the tokens of the other inputs.
    assert defaults(cache=128)["padded"] == defaults(cache=256)["padded"]


def test_text_inputs_keep_the_bos_and_say_their_text() -> None:
    inputs = defaults(words=True)
    assert {item.tokens[0] for item in inputs.values()} == {1}
    assert inputs["prompt"].text == "The capital of France is"
    assert all(item.text is not None for item in inputs.values())


def test_a_prefill_larger_than_the_cache_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"prefill of 32 does not fit the KV cache of 16 .*--kv-cache-len"):
        defaults((32,), 16)


def test_a_tokenizer_of_another_model_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="outside the model's vocabulary of 6"):
        default_inputs(
            prefill=(8,), kv_cache_len=16, vocab_size=6, window=None, tokenizer=Words(), prompt="a", seed=0
        )  # fmt: skip


@settings(max_examples=3 * settings.default.max_examples)
@given(schedules())
def test_a_schedule_covers_every_position_once_and_never_overruns_the_cache(made: Scheduled) -> None:
    covered = [position for step in made.steps for position in range(step.start, step.start + step.valid)]
    assert covered == list(range(made.length))
    for step in made.steps:
        assert step.start + step.size <= made.kv_cache_len
        assert 1 <= step.valid <= step.size
        if step.signature == "decode":
            assert step.size == 1
        else:
            assert step.size in made.prefill
            assert step.signature == f"prefill_{step.size}"
    assert all(step.signature == "decode" for step in made.steps if step.start >= made.length - made.decode_tail)


@settings(max_examples=3 * settings.default.max_examples)
@given(schedules())
def test_a_schedule_decodes_only_what_no_prefill_can_take(made: Scheduled) -> None:
    for step in made.steps[: None if made.length > 1 else 0]:
        if step.signature == "decode" and step.start < made.length - made.decode_tail:
            assert all(step.start + size > made.kv_cache_len for size in made.prefill)


def test_large_chunks_come_first_and_the_rest_takes_the_smallest_that_holds_it() -> None:
    assert describe_schedule(schedule(300, 1, (16, 128), 512)) == (
        "prefill_128[0:128] prefill_128[128:256] prefill_128[256:299] decode[299]"
    )
    assert describe_schedule(schedule(268, 1, (16, 128), 512)).endswith("prefill_16[256:267] decode[267]")
    # Another prefill_128 would write past position 310, and from 304 on so would a prefill_16.
    assert describe_schedule(schedule(308, 0, (16, 128), 310)) == (
        "prefill_128[0:128] prefill_128[128:256] prefill_16[256:272] prefill_16[272:288] prefill_16[288:304] "
        "decode[304:308]"
    )


def test_tokens_beyond_the_cache_name_both_numbers() -> None:
    with pytest.raises(UsageError, match="300 tokens do not fit the KV cache of 256 positions; shorten"):
        schedule(300, 1, (32,), 256)


def test_an_input_refuses_a_decode_tail_it_cannot_have() -> None:
    with pytest.raises(ValueError, match="decode tail of 2 in 1 tokens"):
        TokenInput("x", (1,), None, 2)


def test_prompts_are_numbered() -> None:
    made = inputs_from_prompts(["Hello there", "Bye"], Words(), VOCAB, 16)
    assert [(item.id, item.text, len(item.tokens)) for item in made] == [
        ("prompt-1", "Hello there", 3),
        ("prompt-2", "Bye", 2),
    ]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("  ", "prompt 2 is empty"),
        ("a b c d e f g h", "prompt 2: 9 tokens do not fit the KV cache of 8 positions"),
        ("\ud800", "prompt 2 holds half a surrogate pair"),
    ],
)
def test_a_prompt_that_cannot_be_run_is_named(prompt: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        inputs_from_prompts(["fine", prompt], Words(), VOCAB, 8)


def test_text_without_a_tokenizer_says_what_to_write_instead() -> None:
    with pytest.raises(UsageError, match=r'--prompt needs a tokenizer .*\{"tokens": \[1, 2, 3\]\}'):
        inputs_from_prompts(["x"], None, VOCAB, 8)


def test_a_jsonl_file_gives_texts_tokens_ids_and_tails(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    lines = ['{"text": "a\u2028b c"}', "", '{"tokens": [0, 299], "id": "edges", "decode_tail": 0}']
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    made = inputs_from_jsonl(file, Words(), VOCAB, 8)
    assert [(item.id, item.tokens[-1], item.text, item.decode_tail) for item in made] == [
        ("line-1", made[0].tokens[-1], "a\u2028b c", 1),
        ("edges", 299, None, 0),
    ]


BAD_LINES = {
    '{"text": "a"': r"no JSON \(.* at column",
    "[" * 100_000: "no JSON that can be read",
    "[1, 2]": "not an object",
    '{"text": "a", "tokens": [1]}': "both of",
    '{"id": "x"}': "neither of",
    '{"text": "a", "decode-tail": 1}': "unknown key 'decode-tail'; the keys are text, tokens, id, decode_tail",
    '{"text": 3}': '"text" is not a string',
    '{"text": ""}': "is empty",
    '{"tokens": []}': '"tokens" is not a list with something in it',
    '{"tokens": 5}': '"tokens" is not a list',
    '{"tokens": [1, true]}': '"tokens" holds true',
    '{"tokens": [1.0]}': '"tokens" holds 1.0',
    '{"tokens": [300]}': "token 300 is outside the model's vocabulary of 300; ids go from 0 to 299",
    '{"tokens": [-1]}': "token -1 is outside",
    '{"tokens": [1, 2, 3, 4, 5, 6, 7, 8, 9]}': "9 tokens do not fit the KV cache of 8 positions",
    '{"tokens": [1], "decode_tail": 2}': '"decode_tail" is 2; give a whole number from 0 to 1',
    '{"tokens": [1], "decode_tail": true}': '"decode_tail" is true',
    '{"tokens": [1], "id": "FIRST"}': "id 'FIRST' is taken by line 1",
    '{"tokens": [1], "id": "First"}': r"taken by line 1 \('first': upper and lower case count as the same\); give",
    '{"tokens": [1], "id": "first"}': "id 'first' is taken by line 1; give each line",
    '{"tokens": [1, 2, 3], "tokens": [4]}': "key 'tokens' stands there twice; keep one of them",
    '{"tokens": [1], "id": "x", "id": "y"}': "key 'id' stands there twice",
    '{"to\\u006bens": [1], "tokens": [1]}': "key 'tokens' stands there twice",
    '{"' + "k" * 500 + '": 1, "' + "k" * 500 + '": 2}': "key 'k*\\.\\.\\.' stands there twice",
    '{"tokens": [1], "id": "../up"}': "cannot name a folder",
    '{"tokens": [1], "id": ".."}': "cannot name a folder",
    json.dumps({"tokens": [1], "id": "x" * 65}): "cannot name a folder",
    '{"tokens": [1], "id": "new\\nline"}': "cannot name a folder",
    '{"tokens": [1], "id": 5}': "cannot name a folder",
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"tokens": [1], "id": "first"}\n' + line, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        inputs_from_jsonl(file, Words(), VOCAB, 8)
    assert f"{file}:2" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds no inputs"), (b"\n \n", "holds no inputs"), (b"\x80\xff\x00", "is not UTF-8 text")],
)
def test_an_empty_or_binary_file_is_a_usage_error(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        inputs_from_jsonl(file, Words(), VOCAB, 8)


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(UsageError, match="cannot be read"):
            inputs_from_jsonl(path, None, VOCAB, 8)


def test_text_lines_without_a_tokenizer_are_named(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"tokens": [1]}\n{"text": "a"}\n')
    with pytest.raises(UsageError, match=r'in.jsonl:2: "text" needs a tokenizer'):
        inputs_from_jsonl(file, None, VOCAB, 8)


@pytest.mark.process
def test_inputs_and_doctor_import_no_framework() -> None:
    code = (
        "import sys, harness.inputs.tokens, harness.commands.doctor; harness.commands.doctor.examine(); "
        "print(sorted({'torch', 'tensorflow', 'transformers', 'hypothesis', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
