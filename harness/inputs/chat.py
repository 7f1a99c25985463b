"""How an app turns a message into a prompt, and where it stops: chat template and stop tokens of a checkpoint.

In: a tokenizer, or a checkpoint's folder. Out: token ids. Raises UsageError for what cannot be used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.inputs.tokens import TokenInput, check_vocabulary
from harness.plain import one_line
from harness.system.reading import SETTINGS, read_text

_FILES = ("generation_config.json", "config.json")
_KEY = "eos_token_id"


def chat_tokens(tokenizer: Any, text: str, where: str) -> list[int]:
    """The ids of one message of a user, in the template that the checkpoint brings, with the answer's beginning.

    where: names the prompt in errors.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(f"{where}: --chat needs a chat template and this tokenizer has none; leave --chat out")
    message = [{"role": "user", "content": text}]
    try:
        rendered = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template is a program of its own
        said = one_line(f"{type(error).__name__}: {error}")
        raise UsageError(f"{where}: the chat template fails ({said}); leave --chat out, or fix the template") from None
    # The template writes the tokens that begin a text itself.
    tokens = list(tokenizer.encode(rendered, add_special_tokens=False))
    if not tokens:
        raise UsageError(f"{where}: the chat template makes nothing of it; leave --chat out, or fix the template")
    return tokens


def chat_inputs(prompts: Sequence[str], tokenizer: Any, vocab_size: int, limit: int) -> list[TokenInput]:
    """`--chat --prompt TEXT`, as inputs prompt-1, prompt-2, ... limit: positions in the KV cache."""
    found = []
    for number, prompt in enumerate(prompts, start=1):
        where = f"prompt {number}"
        if tokenizer is None:
            raise UsageError(
                f"{where}: --chat needs a tokenizer and there is none with these weights; give ids with --inputs"
            )
        tokens = chat_tokens(tokenizer, prompt, where)
        check_vocabulary(tokens, vocab_size, where)
        if len(tokens) > limit:
            raise UsageError(
                f"{where}: {len(tokens)} tokens in the chat template do not fit the KV cache of {limit} positions; "
                "shorten the prompt, or give a longer cache with --kv-cache-len"
            )
        found.append(TokenInput(f"prompt-{number}", tuple(tokens), prompt))
    return found


def stop_tokens(folder: Path, tokenizer: Any, vocabulary: int) -> list[int]:
    """At which a text ends, ascending: what `generation_config.json` says, else config.json, else the tokenizer.

    vocabulary: ids that the model knows; others are left out, since it cannot say them.
    """
    for name in _FILES:
        file = folder / name
        if file.is_file():
            found = _ids(_read(file).get(_KEY))
            if found:
                return sorted(token for token in found if token < vocabulary)
    return sorted(token for token in _ids(getattr(tokenizer, "eos_token_id", None)) if token < vocabulary)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(file, "fix the file, or remove it", SETTINGS))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON ({one_line(str(error))}); fix the file, or remove it") from None
    return found if isinstance(found, dict) else {}


def _ids(value: object) -> set[int]:
    given: Iterable[object] = value if isinstance(value, list) else [value]
    return {one for one in given if type(one) is int and one >= 0}
