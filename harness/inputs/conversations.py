"""Conversations: turns one after the other on one KV cache, which each prompt continues where it stands.

In: the turns of a line of `--inputs`. Out: one `TokenInput`, or a UsageError that names line, turn and remedy.

A device prefills a prompt but for its last token at the position where the cache stands, decodes that token, and then
its own reply. Here the reply is given, and decoded token by token; none decodes the last token of the prompt alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol, TypedDict, cast

from harness.errors import UsageError
from harness.inputs.tokens import TokenInput, Tokenizer, check_vocabulary, encode, needs_tokenizer, too_long
from harness.plain import brief, one_line

_KEYS = ("text", "tokens", "reply")
EXAMPLE = '{"turns": [{"text": "...", "reply": "..."}, {"text": "..."}]}'


class Turn(TypedDict, total=False):
    """A turn, with `text` or `tokens`. reply: text or token ids."""

    text: str
    tokens: list[int]
    reply: str | list[int]


class _Continuing(Protocol):
    """What is asked of a tokenizer for text that begins no sequence."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]: ...


def checked_turns(turns: object, where: str) -> list[Turn]:
    """What can be told of turns without the model. Raises UsageError."""
    if not isinstance(turns, list) or not turns:
        raise UsageError(f'{where}: "turns" is not a list with something in it; write {EXAMPLE}')
    for number, turn in enumerate(turns, start=1):
        _check_turn(turn, f"{where}: turn {number}")
    return cast("list[Turn]", turns)


def conversation(
    name: str, turns: Sequence[Turn], tokenizer: Tokenizer | None, vocab_size: int, limit: int, where: str
) -> TokenInput:
    """One input of all turns. limit: positions in the KV cache. Raises UsageError for what cannot be run."""
    tokens: list[int] = []
    counts: list[tuple[int, int]] = []
    for number, turn in enumerate(turns, start=1):
        at = f"{where}: turn {number}"
        prompt = _tokens(turn.get("text", turn.get("tokens")), tokenizer, not tokens, at)
        reply = _tokens(turn["reply"], tokenizer, False, f"{at}: reply") if "reply" in turn else []
        counts.append((len(prompt) - 1, 1 + len(reply)))
        tokens += [*prompt, *reply]
        check_vocabulary([*prompt, *reply], vocab_size, at)
    if len(tokens) > limit:
        raise UsageError(f"{where}: {len(tokens)} tokens in {len(turns)} turns {too_long(limit)}")
    *earlier, (_, tail) = counts
    return TokenInput(name, tuple(tokens), _text(turns), tail, earlier=tuple(earlier))


def check_without_tokenizer(turns: Sequence[Turn], where: str) -> None:
    """Raises UsageError for turns in text, as `conversation` does where there is no tokenizer."""
    for number, turn in enumerate(turns, start=1):
        at = f"{where}: turn {number}"
        _tokens(turn.get("text", []), None, True, at)
        _tokens(turn.get("reply", []), None, False, f"{at}: reply")


def _tokens(given: object, tokenizer: Tokenizer | None, first: bool, where: str) -> list[int]:
    """first: whether it begins the sequence, so that a tokenizer may add the token that does."""
    if not isinstance(given, str):
        return list(cast("list[int]", given))
    if tokenizer is None:
        raise UsageError(f"{where}: text {needs_tokenizer()}")
    return encode(tokenizer if first else _Within(cast("_Continuing", tokenizer), tokenizer), given, where)


class _Within:
    """A tokenizer that adds no token that begins a sequence."""

    def __init__(self, continuing: _Continuing, tokenizer: Tokenizer) -> None:
        self._continuing, self._tokenizer = continuing, tokenizer

    def encode(self, text: str) -> list[int]:
        return self._continuing.encode(text, add_special_tokens=False)

    def decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids)


def _text(turns: Sequence[Turn]) -> str | None:
    """All that was said, a line each; None where some of it is bare ids."""
    said: list[object] = [part for turn in turns for part in (turn.get("text"), turn.get("reply", "")) if part != ""]
    return "\n".join(map(str, said)) if all(isinstance(part, str) for part in said) else None


def _check_turn(turn: object, where: str) -> None:
    if not isinstance(turn, dict):
        raise UsageError(f"{where} is not an object; write {EXAMPLE}")
    unknown = [key for key in turn if key not in _KEYS]
    if unknown:
        raise UsageError(f"{where}: unknown key '{one_line(unknown[0], 40)}'; the keys are {', '.join(_KEYS)}")
    if ("text" in turn) == ("tokens" in turn):
        both = "both" if "text" in turn else "neither"
        raise UsageError(f'{where}: {both} of "text" and "tokens"; write {EXAMPLE}')
    if "text" in turn and not isinstance(turn["text"], str):
        raise UsageError(f'{where}: "text" is not a string; write {EXAMPLE}')
    if "tokens" in turn:
        check_token_list(turn["tokens"], where, "tokens")
    if "reply" not in turn:
        return
    if isinstance(turn["reply"], str):
        if not turn["reply"].strip():
            raise UsageError(f'{where}: "reply" is empty; give what is answered, or leave "reply" out')
    elif not isinstance(turn["reply"], list):
        raise UsageError(f'{where}: "reply" is not text nor a list of token ids; write {EXAMPLE}')
    else:
        check_token_list(turn["reply"], where, "reply")


def check_token_list(tokens: object, where: str, key: str) -> None:
    """Raises UsageError for what is not a list of ids with something in it. key: what the line calls it."""
    if not isinstance(tokens, list) or not tokens:
        raise UsageError(f'{where}: "{key}" is not a list with something in it; write {{"{key}": [1, 2, 3]}}')
    for token in tokens:
        # bool is an int to Python: true would quietly become token 1.
        if type(token) is not int:
            raise UsageError(f'{where}: "{key}" holds {brief(token, 40, json.dumps)}; give whole numbers only')
