"""Inputs that a person gives: prompts, and lines of a JSONL file, conversations among them.

In: texts and token ids, a tokenizer where there is one. Out: `TokenInput`s, or a UsageError that names the line and the
remedy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict, cast

from harness.errors import UsageError
from harness.inputs.conversations import (
    EXAMPLE,
    Turn,
    check_token_list,
    check_without_tokenizer,
    checked_turns,
    conversation,
)
from harness.inputs.tokens import TokenInput, Tokenizer, check_vocabulary, encode, needs_tokenizer, too_long
from harness.names.allowed import NAME_RULE, is_name
from harness.plain import brief, one_line
from harness.system.reading import TEXT, DoubledKeyError, read_text, without_doubles

_KEYS = ("text", "tokens", "id", "decode_tail", "turns")
_GIVES = ("text", "tokens", "turns")  # a line has one of them


class InputLine(TypedDict, total=False):
    """A line of `--inputs FILE.jsonl`, with `text`, `tokens` or `turns`.

    What is `object` here is checked where it is used.
    """

    id: object
    text: str
    tokens: list[int]
    turns: list[Turn]
    decode_tail: object


def inputs_from_prompts(
    prompts: Sequence[str], tokenizer: Tokenizer | None, vocab_size: int, limit: int
) -> list[TokenInput]:
    """`--prompt TEXT`, any number of them, as inputs prompt-1, prompt-2, ...

    limit: positions in the KV cache. Raises UsageError for a prompt that cannot be run.
    """
    if tokenizer is None and prompts:
        raise no_tokenizer()
    inputs = []
    for number, prompt in enumerate(prompts, start=1):
        where = f"prompt {number}"
        inputs.append(_checked(f"prompt-{number}", InputLine(text=prompt), tokenizer, vocab_size, limit, where))
    return inputs


def inputs_from_jsonl(path: Path, tokenizer: Tokenizer | None, vocab_size: int, limit: int) -> list[TokenInput]:
    """`--inputs FILE.jsonl`: one object per line with "text" or "tokens", and optionally "id" and "decode_tail"; or
    with "turns", see `conversations.py`.

    A line without an id is called line-N after its number; empty lines are skipped.
    limit: positions in the KV cache.
    Raises UsageError that names the file, the line and the remedy.
    """
    return [_checked(name, entry, tokenizer, vocab_size, limit, where) for name, entry, where in _entries(path)]


def check_jsonl(path: Path, *, lacks_tokenizer: bool = False) -> None:
    """What can be known of `--inputs FILE.jsonl` without the model. Raises UsageError as `inputs_from_jsonl` does.

    lacks_tokenizer: whether there is known to be none.
    """
    for _, entry, where in _entries(path):
        if lacks_tokenizer and "text" in entry:
            raise _text_needs_tokenizer(where)
        if lacks_tokenizer and "turns" in entry:
            check_without_tokenizer(entry["turns"], where)


def no_tokenizer(*, chat: bool = False) -> UsageError:
    """What is wrong with `--prompt`, or with `--chat` beside it, where there is no tokenizer."""
    return UsageError(f"{'--chat' if chat else '--prompt'} {needs_tokenizer()}")


def _text_needs_tokenizer(where: str) -> UsageError:
    return UsageError(f'{where}: "text" {needs_tokenizer()}')


def _entries(path: Path) -> Iterator[tuple[str, InputLine, str]]:
    """(id, object, "file:line") of each line. Raises UsageError, also when there are none."""
    seen: dict[str, tuple[int, str]] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        entry = _parse(line, where)
        name = _name(entry, f"line-{number}", where)
        # Ids become folders, and some file systems do not tell A from a.
        first, other = seen.setdefault(name.casefold(), (number, name))
        if first != number:
            why = "" if other == name else f" ('{other}': upper and lower case count as the same)"
            raise UsageError(f"{where}: id '{name}' is taken by line {first}{why}; give each line an id of its own")
        yield name, entry, where
    if not seen:
        raise UsageError(f'{path} holds no inputs; write lines like {{"text": "The capital of France is"}}')


def _checked(
    name: str, entry: InputLine, tokenizer: Tokenizer | None, vocab_size: int, limit: int, where: str
) -> TokenInput:
    if "turns" in entry:
        return conversation(name, entry["turns"], tokenizer, vocab_size, limit, where)
    text = entry.get("text")
    if text is None:
        tokens = entry["tokens"]
    elif tokenizer is None:
        raise _text_needs_tokenizer(where)
    else:
        tokens = encode(tokenizer, text, where)
    check_vocabulary(tokens, vocab_size, where)
    if len(tokens) > limit:
        raise UsageError(f"{where}: {len(tokens)} tokens {too_long(limit)}")
    tail = entry.get("decode_tail", 1)
    if type(tail) is not int or not 0 <= tail <= len(tokens):
        raise UsageError(
            f'{where}: "decode_tail" is {brief(tail, 40, json.dumps)}; give a whole number from 0 to {len(tokens)}, '
            "the number of tokens"
        )
    return TokenInput(name, tuple(tokens), text, tail)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    content = read_text(path, "--inputs takes a file of JSON lines", TEXT)
    # Not splitlines(): it also splits at U+2028, which JSON allows inside a string.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, line


def _parse(line: str, where: str) -> InputLine:
    example = '{"text": "..."} or {"tokens": [1, 2, 3]}'
    try:
        entry = json.loads(line, object_pairs_hook=without_doubles)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: no JSON ({error.msg} at column {error.colno}); write {example}") from None
    except DoubledKeyError as error:
        raise UsageError(f"{where}: key '{one_line(error.key, 40)}' stands there twice; keep one of them") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: no JSON that can be read ({error}); write {example}") from None
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: not an object; write {example}")
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise UsageError(f"{where}: unknown key '{unknown[0][:40]}'; the keys are {', '.join(_KEYS)}")
    given = [key for key in _GIVES if key in entry]
    if len(given) != 1:
        both = f'both of "{given[0]}" and "{given[1]}"' if given else 'neither of "text" and "tokens"'
        raise UsageError(f"{where}: {both}; write {example}, or a conversation, {EXAMPLE}")
    if "text" in entry and not isinstance(entry["text"], str):
        raise UsageError(f'{where}: "text" is not a string; write {example}')
    if "tokens" in entry:
        check_token_list(entry["tokens"], where, "tokens")
    if "turns" in entry:
        checked_turns(entry["turns"], where)
        if "decode_tail" in entry:
            raise UsageError(f'{where}: "decode_tail" is of one prompt, and turns say what is decoded; leave it out')
    return cast("InputLine", entry)


def _name(entry: InputLine, default: str, where: str) -> str:
    name = entry.get("id", default)
    if not isinstance(name, str) or not is_name(name):
        raise UsageError(f'{where}: "id" {brief(name, 80, json.dumps)} cannot name a folder; {NAME_RULE}')
    return name


def check_ids(inputs: Sequence[TokenInput]) -> None:
    """Ids name folders and cases, and inputs come from a file, from prompts and from options beside each other.

    Raises UsageError where two inputs have one id.
    """
    seen: set[str] = set()
    for item in inputs:
        if item.id.casefold() in seen:  # some file systems do not tell A from a
            raise UsageError(
                f"two inputs are called '{item.id}': one of --inputs, and one of --prompt, --edges or --decode; give "
                "the line in the file another id"
            )
        seen.add(item.id.casefold())
