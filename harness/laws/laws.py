"""The laws: what must hold of a stage with no reference to compare it with.

In: a `Conversation` with a stage's driver. Out: for a law of bits, what broke it, or that it holds; for a law that
rounding may bend, the two runs that should be the same. A law is one value of `LAWS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from harness.errors import UsageError
from harness.flatbuffer.signatures import DECODE, PREFILL
from harness.inputs.tokens import Step
from harness.jobs.driver import Abilities
from harness.laws.ways import Apart, Conversation, Ran, bits_apart, decodes, prefills, run_steps
from harness.names.laws import LAW_WORDS, LawName


class Pair(NamedTuple):
    """Two runs that are the same but for rounding."""

    one: Ran
    other: Ran


class NotAskedError(Exception):
    """A law that has nothing to say of this conversation: why."""


Outcome = Apart | Pair | None  # broken where; to be measured; it holds


@dataclass(frozen=True)
class Law:
    """check: raises NotAskedError where it has nothing to say. needs: which stages it applies to; else why not.

    bends: whether rounding may bend it, so that its two runs are measured.
    """

    name: LawName
    check: Callable[[Conversation], Outcome]
    needs: Callable[[Abilities], str] = lambda can: ""
    bends: bool = False

    @property
    def words(self) -> str:
        return LAW_WORDS[self.name]


def _pads(can: Abilities) -> str:
    return "" if can.pads else "it runs the valid tokens alone"


def _slots(can: Abilities) -> str:
    return "" if can.slots else "its KV cache grows with every step"


def _rerun(talk: Conversation) -> Outcome:
    return bits_apart(talk.base, talk.again())


def _padding(talk: Conversation) -> Outcome:
    if all(step.valid == step.size for step in talk.steps):
        raise NotAskedError("no step is padded")
    return bits_apart(talk.base, talk.again(padding=talk.padding), talk.length)


def _own_slots(talk: Conversation) -> Outcome:
    """On a cache that is full of another conversation, so that a slot that is cleared shows; and on a fresh one, since
    that other conversation may have left there what every call writes."""
    return talk.on_used[1] or talk.outside_own_slots(talk.driver.fresh())[1]


def _used_cache(talk: Conversation) -> Outcome:
    return bits_apart(talk.base, talk.on_used[0], talk.length)


def _second_prompt(talk: Conversation) -> Outcome:
    """The first one was the first thing that this session ran, and others ran since."""
    first, _ = talk.base, talk.other
    return bits_apart(first, talk.again())


def _any_order(talk: Conversation) -> Outcome:
    """Every signature on another conversation first, the largest before the others; a decode of it before each step."""
    driver, tokens = talk.driver, talk.other_tokens
    cache = driver.fresh()
    for size in reversed(driver.prefill):
        valid = min(size, len(tokens))
        cache = driver.call(Step(f"{PREFILL}{size}", size, 0, valid), tokens[:valid], driver.fresh()).cache
    position = min(driver.prefill[0], len(tokens)) if driver.prefill else 0

    def decode() -> None:
        if position < driver.kv_cache_len:
            driver.call(Step(DECODE, 1, position, 1), tokens[:1], cache)

    return bits_apart(talk.base, talk.again(before=decode))


def _prefill_is_decodes(talk: Conversation) -> Outcome:
    if not talk.prefilled:
        raise NotAskedError("no token is prefilled")
    return Pair(talk.base, run_steps(talk.driver, decodes(0, talk.length), talk.tokens))


def _chunks_are_one(talk: Conversation) -> Outcome:
    if talk.prefilled < 2:
        raise NotAskedError("fewer than two tokens are prefilled")
    driver, cut = talk.driver, talk.cut
    try:
        steps = [*prefills(driver, 0, cut), *prefills(driver, cut, talk.prefilled)]
    except UsageError as error:
        raise NotAskedError(str(error)) from None
    steps += decodes(talk.prefilled, talk.length)
    return Pair(talk.base, run_steps(driver, steps, talk.tokens))


def _second_pass(talk: Conversation) -> Outcome:
    """State that builds up over conversations shows after some: this is what ends a session, and at its end the first
    prompt of all comes again."""
    if len(talk.inputs) < 2:
        raise NotAskedError("there is one input alone")
    first = [talk.written(item) for item in talk.inputs]
    for item, ran in zip(reversed(talk.inputs), reversed(first), strict=True):
        if (apart := bits_apart(ran, talk.written(item))) is not None:
            return apart._replace(of=item.id)
    return bits_apart(talk.base, talk.again())


def _threads(talk: Conversation) -> Outcome:
    with talk.driver.with_threads(2) as driver:
        return Pair(talk.base, run_steps(driver, talk.steps, talk.tokens))


# In the order in which they are checked. The last one lets go of the driver's own model where it has to.
LAWS = (
    Law(LawName.RERUN, _rerun),
    Law(LawName.PADDING, _padding, _pads),
    Law(LawName.OWN_SLOTS, _own_slots, _slots),
    Law(LawName.USED_CACHE, _used_cache, _slots),
    Law(LawName.SECOND_PROMPT, _second_prompt),
    Law(LawName.ANY_ORDER, _any_order),
    Law(LawName.PREFILL_IS_DECODES, _prefill_is_decodes, bends=True),
    Law(LawName.CHUNKS_ARE_ONE, _chunks_are_one, bends=True),
    Law(LawName.SECOND_PASS, _second_pass),
    Law(LawName.THREADS, _threads, bends=True),
)
