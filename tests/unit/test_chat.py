"""The chat template and the stop tokens of a checkpoint, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.inputs.chat import chat_inputs, stop_tokens


class Letters:
    """A tokenizer whose tokens are letters."""

    eos_token_id = 3

    def __init__(self, template: str | None = "{}", fails: bool = False) -> None:
        self.chat_template, self.fails = template, fails

    def apply_chat_template(self, messages: list[dict[str, str]], **how: Any) -> str:
        assert how == {"add_generation_prompt": True, "tokenize": False}
        if self.fails:
            raise ValueError("only a system\nmessage")
        return str(self.chat_template).format(messages[0]["content"])

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens, "the template has them"
        return [ord(letter) for letter in text]


def test_a_prompt_goes_into_the_template() -> None:
    (item,) = chat_inputs(["hi"], Letters("<{}>"), 128, 10)
    assert (item.id, item.text) == ("prompt-1", "hi")
    assert "".join(map(chr, item.tokens)) == "<hi>"


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (None, "prompt 1: --chat needs a tokenizer and there is none"),
        (Letters(None), "prompt 1: --chat needs a chat template and this tokenizer has none; leave --chat out"),
        (Letters(fails=True), "prompt 1: the chat template fails (ValueError: only a system message)"),
        (Letters("-" * 9 + "{}"), "prompt 1: 11 tokens in the chat template do not fit the KV cache of 10 positions"),
    ],
)
def test_what_cannot_be_used_is_a_line(tokenizer: Any, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        chat_inputs(["hi"], tokenizer, 128, 10)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_a_template_that_makes_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="the chat template makes nothing of it"):
        chat_inputs([""], Letters("{}"), 128, 10)


def test_the_generation_config_says_where_a_text_ends(tmp_path: Path) -> None:
    assert stop_tokens(tmp_path, Letters(), 100) == [3], "of the tokenizer, where no file says it"
    assert stop_tokens(tmp_path, None, 100) == []
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert stop_tokens(tmp_path, Letters(), 100) == [7]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 8, 200, True, -1, "x"]}))
    assert stop_tokens(tmp_path, Letters(), 100) == [8, 9], "and no id that the model cannot say"


def test_a_damaged_file_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UsageError, match=r"generation_config.json is not JSON .*; fix the file, or remove it"):
        stop_tokens(tmp_path, None, 100)
