"""The text on which perplexity is measured: a person's file, or the one that ships, cut into windows of tokens.

In: a file, a tokenizer and the sizes of the converted model. Out: a `TextSample`, whose windows every stage runs for
their logits alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.inputs.tokens import TokenInput, Tokenizer, schedule
from harness.plain import brief
from harness.system.reading import SETTINGS, read_text

# Passages of Alice's Adventures in Wonderland (Carroll, 1865), On the Origin of Species (Darwin, 1859), Walden
# (Thoreau, 1854), A Scandal in Bohemia (Doyle, 1891) and Pride and Prejudice (Austen, 1813), in the public domain.
SHIPPED = Path(__file__).with_name("sample.txt")
NO_TOKENIZER = "there is no tokenizer with these weights"

MOST_TOKENS = 384
MOST_STEPS = 128  # tokens, where the file gives logits on decode alone: each is a step of its own
LONGEST_WINDOW = 256
# What the logits of a stage may take on disk. 384 tokens of SmolLM2's vocabulary are 75 MB.
_MOST_BYTES = 128_000_000
_CHARACTERS_PER_TOKEN = 64  # more than any text has on average: of a longer file the rest is not encoded


@dataclass(frozen=True)
class TextSample:
    """A text, or why there is none. name: the file's path. sha256: of its text."""

    name: str = ""
    sha256: str = ""
    windows: tuple[TokenInput, ...] = ()
    why_not: str = ""


def read_sample(path: Path) -> str:
    """The text of a file. Raises UsageError for what is not text, for one that is empty, and for one of megabytes."""
    text = read_text(path, "--text takes a file of plain text", SETTINGS)
    if not text.strip():
        raise UsageError(f"{path} is empty; --text takes a file of plain text, a few thousand characters are enough")
    return text


def text_sample(
    path: Path | None,
    tokenizer: Tokenizer | None,
    *,
    vocab_size: int,
    prefill: Sequence[int],
    kv_cache_len: int,
    prefill_logits: bool,
) -> TextSample:
    """path: the person's file; None for the text that ships. Raises UsageError for what cannot be measured on."""
    if tokenizer is None:
        if path is not None:
            raise UsageError(f"--text needs a tokenizer and {NO_TOKENIZER}; leave it out")
        return TextSample(why_not=NO_TOKENIZER)
    text = read_sample(path or SHIPPED)
    most = _MOST_BYTES // (4 * vocab_size)
    most = max(2, min(most, MOST_TOKENS if prefill_logits else MOST_STEPS))
    tokens = list(tokenizer.encode(text[: most * _CHARACTERS_PER_TOKEN]))[:most]
    where = str(path or "the text that ships")
    if len(tokens) < 2:
        raise UsageError(f"{where} gives {len(tokens)} tokens, and the first is not predicted; give a longer --text")
    if (odd := next((token for token in tokens if not 0 <= token < vocab_size), None)) is not None:
        raise UsageError(
            f"{where}: token {brief(odd)} is outside the model's vocabulary of {vocab_size}; the tokenizer is another "
            "model's"
        )
    length = _window_length(prefill, kv_cache_len, prefill_logits)
    cut = windows_of(tokens, getattr(tokenizer, "bos_token_id", None), length)
    if not cut:
        return TextSample(why_not=f"a KV cache of {kv_cache_len} positions holds no two tokens")
    return TextSample(
        name=str(path) if path else SHIPPED.name,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        windows=tuple(
            # No input of a person's is called so.
            TokenInput(f"~text-{i}", tuple(ids), None, 0 if prefill_logits else len(ids))
            for i, ids in enumerate(cut, start=1)
        ),
    )


def windows_of(tokens: Sequence[int], bos: int | None, length: int) -> list[list[int]]:
    """The tokens in windows of at most so many, two at least, each with the BOS first where the text begins with it.

    Every token but a window's first is predicted, from those of its window before it.
    """
    first = [tokens[0]] if tokens and tokens[0] == bos else []
    rest, step = tokens[len(first) :], length - len(first)
    if step < 1:
        return []
    cut = [[*first, *rest[start : start + step]] for start in range(0, len(rest), step)]
    return [window for window in cut if len(window) > 1]


def _window_length(prefill: Sequence[int], kv_cache_len: int, prefill_logits: bool) -> int:
    """The longest window that prefill alone takes: a decode step per token would take most of the time."""
    longest = min(LONGEST_WINDOW, kv_cache_len)
    if not prefill_logits:
        return longest

    def decodes(length: int) -> bool:
        return any(step.signature == "decode" for step in schedule(length, 0, prefill, kv_cache_len))

    return next((length for length in range(longest, 1, -1) if not decodes(length)), longest)
