"""Token inputs that every stage shares, and how a device runs each of them.

In: a tokenizer and the sizes of the converted model. Out: `TokenInput`s,
and for each the `Step`s of prefill and decode by which the device covers its positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.errors import UsageError
from harness.plain import brief

DEFAULT_INPUT_IDS = ("one-token", "prompt", "padded", "prefill-exact", "chunked", "long")

PROSE = """\
A lighthouse stands at the end of the long stone pier, and every evening its lamp is lit before the last
fishing boat comes home. The keeper, an old woman who once taught geography, climbs one hundred and twelve
steps with a can of oil in one hand and a notebook in the other. She writes down the wind, the height of the
tide and the colour of the sky, because her mother did so before her, and because a habit is easier to keep
than to break. In spring the terns return from the south and nest among the rocks. In summer children count
the ships on the horizon and argue about where each of them is going. When autumn comes, the fog rolls in so
thickly that the bell has to be rung by hand, three strokes every minute, until the morning clears.

The village behind the harbour has two bakeries, one school and a small museum of maps. Some of the maps are
four centuries old and show islands that nobody has ever found. A visitor once asked why they were kept, since
they were plainly wrong. The curator answered that an error drawn with care tells you what people hoped for,
what they feared, and how far they had really travelled. He then pointed at a thin red line along the coast,
drawn by a surveyor who had walked the whole of it in a single winter. Modern instruments had confirmed it to
within the width of a cart track. "Measure twice," the surveyor had noted in the margin, "and write down what
you saw, not what you expected to see."

Trade has always followed the weather here. Wool, salt and dried fish went out; timber, copper and oranges
came in. Today the ferry carries letters, bicycles and a great many tourists, but the timetable still depends
on the tide. On market days the square smells of bread, wet rope and roasted almonds, and the clock on the
town hall runs five minutes fast so that nobody misses the boat.
"""


class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of transformers have it. `encode` adds the BOS where there is one."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(frozen=True)
class TokenInput:
    """One token sequence that every stage runs.

    id: names it in the record and on disk.
    tokens: token ids, at least one.
    text: what they were made from; None for bare ids.
    decode_tail: how many of the last tokens the device runs one by one through its decode signature. A real
        runtime prefills all but the last token and decodes that one.
    drawn: how many of the last tokens the reference draws; until it has, `tokens` lacks them.
    earlier: of a conversation, the turns before the last one: how many tokens of each are prefilled, where the cache
        then stands, and how many are decoded after that. `decode_tail` is of the last turn.
    """

    id: str
    tokens: tuple[int, ...]
    text: str | None = None
    decode_tail: int = 1
    drawn: int = 0
    earlier: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        last = len(self.tokens) + self.drawn - sum(map(sum, self.earlier))
        if not 0 <= self.decode_tail <= last or not self.tokens:
            raise ValueError(f"input {self.id}: a decode tail of {self.decode_tail} in {len(self.tokens)} tokens")


@dataclass(frozen=True)
class Step:
    """One call of a signature: it writes cache positions [start, start+size), of which the first `valid` count."""

    signature: str
    size: int
    start: int
    valid: int


class Scheduled(Protocol):
    """An input, as far as it matters to how it is run. See `TokenInput`."""

    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def decode_tail(self) -> int: ...
    @property
    def earlier(self) -> Sequence[tuple[int, int]]: ...


class Sizes(Protocol):
    """Of the converted model: its prefill signatures and its KV cache."""

    @property
    def prefill(self) -> Sequence[int]: ...
    @property
    def kv_cache_len(self) -> int: ...


def schedule_of(item: Scheduled, sizes: Sizes) -> list[Step]:
    """How the device runs an input, turn by turn: see `schedule`. Every position exactly once, in order."""
    steps: list[Step] = []
    start, length = 0, len(item.tokens)
    if length > sizes.kv_cache_len:
        raise UsageError(f"{length} tokens {too_long(sizes.kv_cache_len)}")
    for prefilled, decoded in (
        *item.earlier,
        (length - item.decode_tail - sum(map(sum, item.earlier)), item.decode_tail),
    ):
        end = start + prefilled + decoded
        steps += schedule(end, decoded, sizes.prefill, sizes.kv_cache_len, start)
        start = end
    return steps


def step_at(steps: Iterable[Step], position: int) -> Step | None:
    """The step that computes a position; None where none does."""
    return next((step for step in steps if step.start <= position < step.start + step.valid), None)


def schedule(length: int, decode_tail: int, prefill: Sequence[int], kv_cache_len: int, begin: int = 0) -> list[Step]:
    """How the device runs `length` tokens, those from `begin` on: each position exactly once, in order.

    Chunks of the largest prefill that fits, then the smallest one that holds the rest, padded; what no prefill
    can take without overrunning the cache, and the last `decode_tail` tokens, go through decode one by one.
    A single token is one decode step. Every step keeps start + size <= kv_cache_len, because a write past the
    cache does not fail on the device: it overwrites the cache's end.

    Raises UsageError when the tokens do not fit the cache.
    """
    if not 0 <= begin < length or not 0 <= decode_tail <= length - begin or any(size < 1 for size in prefill):
        raise ValueError(f"no schedule for {length} tokens, {decode_tail} of them decoded, prefill {tuple(prefill)}")
    if length > kv_cache_len:
        raise UsageError(f"{length} tokens {too_long(kv_cache_len)}")
    steps: list[Step] = []
    start = begin
    prefilled = length - decode_tail if length - begin > 1 else begin
    while start < prefilled:
        rest = prefilled - start
        fitting = sorted(size for size in prefill if start + size <= kv_cache_len)
        if not fitting:
            break
        size = next((size for size in fitting if size >= rest), fitting[-1])
        steps.append(Step(f"prefill_{size}", size, start, min(size, rest)))
        start += steps[-1].valid
    steps += [Step("decode", 1, position, 1) for position in range(start, length)]
    return steps


def describe_schedule(steps: Sequence[Step]) -> str:
    """A schedule on one line, e.g. `prefill_32[0:32] prefill_32[32:47] decode[47]`; a run of decodes is joined."""
    words: list[str] = []
    index = 0
    while index < len(steps):
        step = steps[index]
        index += 1
        end = step.start + step.valid
        while step.signature == "decode" and index < len(steps) and steps[index].signature == "decode":
            end = steps[index].start + 1
            index += 1
        single = step.signature == "decode" and end == step.start + 1
        words.append(f"{step.signature}[{step.start}]" if single else f"{step.signature}[{step.start}:{end}]")
    return " ".join(words)


def default_inputs(
    *,
    prefill: Sequence[int],
    kv_cache_len: int,
    vocab_size: int,
    window: int | None,
    tokenizer: Tokenizer | None,
    prompt: str,
    seed: int,
    prefill_logits: bool = True,
) -> list[TokenInput]:
    """The inputs of a run that names none: `DEFAULT_INPUT_IDS`, in that order.

    window: the model's sliding window in tokens; "long" then has at least 2 * window + 1, if the cache holds it.
    prefill_logits: whether the prefill signatures give logits. Without them an input must end in a decode step, or
        nothing after the last block's cache could be compared; "prefill-exact" then has one token more.
    tokenizer: without one the tokens are drawn from `seed`, and the prompt stands for its length only.

    Raises UsageError for sizes no input fits, and for a tokenizer that is not this model's.
    """
    if not prefill or min(prefill) < 1 or min(prefill) > kv_cache_len:
        raise UsageError(
            f"a prefill of {min(prefill, default=0)} does not fit the KV cache of {kv_cache_len} positions; "
            "change --prefill or --kv-cache-len, or what the model's declaration says"
        )
    lengths = _default_lengths(prefill, kv_cache_len, window, prefill_logits)
    if tokenizer is None:
        draws = enumerate(lengths.items())
        return [TokenInput(name, drawn_tokens(n, vocab_size, (seed, i)), None, tail) for i, (name, (n, tail)) in draws]
    prose = prose_tokens(tokenizer, max(length for length, _ in lengths.values()))
    inputs = []
    for name, (length, tail) in lengths.items():
        tokens, text = prose[:length], None
        if name == "prompt":
            tokens, text = encode(tokenizer, prompt, "the model's prompt"), prompt
            tokens, text = (tokens, text) if len(tokens) <= kv_cache_len else (tokens[:kv_cache_len], None)
        check_vocabulary(tokens, vocab_size, f"input '{name}'")
        inputs.append(TokenInput(name, tuple(tokens), tokenizer.decode(tokens) if text is None else text, tail))
    return inputs


def _default_lengths(
    prefill: Sequence[int], cache: int, window: int | None, prefill_logits: bool
) -> dict[str, tuple[int, int]]:
    """(length, decode tail) of each default input, all within the cache."""
    smallest = min(prefill)
    part = max(1, smallest * 6 // 10)
    padded_tail = min(3, cache - part)
    chunked = max(1, _chunked_prefill(prefill, cache))
    after = 0 if prefill_logits else min(1, cache - smallest)
    long = max(cache * 3 // 4, 2 * window + 1 if window else 1)
    lengths = {
        "one-token": (1, 1),
        "prompt": (max(1, min(6, smallest, cache)), 1),
        "padded": (part + padded_tail, padded_tail),
        "prefill-exact": (smallest + after, after),
        "chunked": (min(chunked + 1, cache), 1),
        "long": (min(long, cache), 1),
    }
    assert tuple(lengths) == DEFAULT_INPUT_IDS
    return lengths


def _chunked_prefill(prefill: Sequence[int], cache: int) -> int:
    """Tokens to prefill in chunks: two and a half of the largest, or what the cache leaves room for."""
    largest = max(size for size in prefill if size <= cache)
    chunks = min(3, cache // largest)
    if chunks == 1:
        # The second chunk cannot fit: the device goes on by decoding, and a few such steps show it.
        return min(largest + 2, cache - 1)
    rest = max(1, largest // 2)
    if rest in prefill and rest > 1:
        # It would fill a smaller signature exactly; the last chunk is to be padded.
        rest -= 1
    return min((chunks - 1) * largest + rest, cache - 1)


def drawn_tokens(length: int, vocab_size: int, seed: tuple[int, ...]) -> tuple[int, ...]:
    """Token ids at random, the same for the same seed."""
    import numpy as np

    # Ids 0 to 2 are control tokens in most vocabularies, and a pad or BOS inside a text is not what a model meets.
    lowest = 3 if vocab_size > 3 else 0
    return tuple(int(token) for token in np.random.default_rng(seed).integers(lowest, vocab_size, size=length))


def prose_tokens(tokenizer: Tokenizer, length: int) -> list[int]:
    """At least `length` tokens of prose, with the tokenizer's BOS if it adds one."""
    text = PROSE
    tokens = tokenizer.encode(text)
    while 0 < len(tokens) < length:
        text += "\n" + text
        tokens = tokenizer.encode(text)
    if not tokens:
        raise UsageError("the tokenizer makes no tokens from English text; check that it is this model's")
    return list(tokens)


def encode(tokenizer: Tokenizer, text: str, where: str) -> list[int]:
    """The tokens of a text, at least one. Raises UsageError that names `where`."""
    if not text.strip():
        raise UsageError(f"{where} is empty; give some text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{where} holds half a surrogate pair, which is not text; write the character whole") from None
    tokens = list(tokenizer.encode(text))
    if not tokens:
        raise UsageError(f"{where} gives no tokens; give some text that the tokenizer knows")
    return tokens


def check_vocabulary(tokens: Sequence[int], vocab_size: int, where: str) -> None:
    """Raises UsageError for a token that the model does not have."""
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise UsageError(
                f"{where}: token {brief(token, 30, json.dumps)} is outside the model's vocabulary of {vocab_size}; "
                f"ids go from 0 to {vocab_size - 1}, and text needs this model's own tokenizer"
            )


def too_long(limit: int) -> str:
    """What is wrong with an input of more tokens than the cache has positions, and the remedy."""
    return (
        f"do not fit the KV cache of {limit} positions; shorten the input, "
        "or give a longer cache: --kv-cache-len, or kv_cache_len in the model's declaration"
    )


def needs_tokenizer() -> str:
    """What is wrong with text where there is no tokenizer, and the remedy."""
    return 'needs a tokenizer and there is none with these weights; give ids with --inputs: {"tokens": [1, 2, 3]}'
