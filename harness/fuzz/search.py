"""The search for an input that breaks a tolerance, and for the smallest one that does.

In: a strategy of inputs, and what judges one. Out: what was found. Knows no stage and no file.

Hypothesis draws the inputs and shrinks the one that breaks a tolerance. What it shrinks to must show the same fault:
another one, or the luck of a single position, would take the place of the one that was found.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from hypothesis import Phase, find, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import NoSuchExample
from hypothesis.internal.conjecture import engine, providers
from hypothesis.internal.constants_ast import Constants
from hypothesis.strategies import SearchStrategy

from harness.fuzz.judging import Failure, InputJudgement, Nearest
from harness.inputs.tokens import TokenInput
from harness.system.attributes import set_within

SHRINKS = 600  # inputs run to make one smaller; each seen before costs nothing


class Listener(Protocol):
    """Is told of each input that was run. found: what broke a tolerance first, once something has."""

    def __call__(self, tried: int, shrinking: int, nearest: Nearest, smallest: TokenInput | None) -> None: ...


@dataclass
class FuzzSearch:
    """What a search came to.

    tried: inputs run until one broke a tolerance, or all. shrinking: inputs run after that. first: the one that broke
    it. smallest: what is left of it, and `fault` what it shows. nearest: the figure nearest to its limit, of all of
    them.
    """

    tried: int = 0
    shrinking: int = 0
    first: TokenInput | None = None
    smallest: TokenInput | None = None
    fault: Failure | None = None
    nearest: Nearest = field(default_factory=Nearest)


def search(
    inputs: SearchStrategy[TokenInput],
    judge: Callable[[TokenInput], InputJudgement],
    *,
    max_examples: int,
    seed: int,
    listener: Listener = lambda tried, shrinking, nearest, smallest: None,
) -> FuzzSearch:
    """Look for an input that breaks a tolerance and make it as small as it gets: fewer tokens, then lower ids.

    The same seed gives the same inputs in the same order. What `judge` raises ends the search and is raised again.
    """
    hunt = _Hunt(judge, listener)
    asked = settings(
        max_examples=max_examples, database=None, deadline=None, phases=(Phase.generate, Phase.shrink), print_blob=False
    )
    with _on_its_own(), suppress(NoSuchExample):
        try:
            find(inputs, hunt.shows_it, settings=asked, random=Random(seed))
        except _FailedError as stopped:
            raise stopped.failure from None
    return hunt.done


class _FailedError(BaseException):
    """Judging an input failed. No Exception: Hypothesis would take that for what it looks for, and shrink it."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure


class _Hunt:
    """What is known while Hypothesis asks for one input after the other."""

    def __init__(self, judge: Callable[[TokenInput], InputJudgement], listener: Listener) -> None:
        self.judge = judge
        self.listener = listener
        self.done = FuzzSearch()
        self._known: dict[tuple[tuple[int, ...], int], InputJudgement] = {}

    def shows_it(self, item: TokenInput) -> bool:
        """Whether an input breaks a tolerance; once one has, whether this one shows the same fault."""
        judged = self._judged(item)
        if judged is None:
            return False
        if self.done.fault is None:
            if not judged.faults:
                return False
            self.done.first, self.done.fault = item, judged.faults[0]
        fault = next((fault for fault in judged.faults if fault.same_as(self.done.fault)), None)
        if fault is None:
            return False
        if self._smaller(item):
            self.done.smallest, self.done.fault = item, fault
        return True

    def _smaller(self, item: TokenInput) -> bool:
        best = self.done.smallest
        return best is None or (len(item.tokens), item.tokens, item.decode_tail) < (
            len(best.tokens), best.tokens, best.decode_tail
        )  # fmt: skip

    def _judged(self, item: TokenInput) -> InputJudgement | None:
        """None for an input that is not run any more."""
        key = (item.tokens, item.decode_tail)
        if key in self._known:
            return self._known[key]
        if self.done.shrinking >= SHRINKS:
            return None
        try:
            judged = self.judge(item)
        except Exception as failure:
            raise _FailedError(failure) from None
        self._known[key] = judged
        if self.done.fault is None:
            self.done.tried += 1
        else:
            self.done.shrinking += 1
        self.done.nearest = max(self.done.nearest, judged.nearest, key=lambda near: near.share)
        self.listener(self.done.tried, self.done.shrinking, self.done.nearest, self.done.smallest)
        return judged


@contextmanager
def _on_its_own() -> Iterator[None]:
    """Within it, what Hypothesis does rests on its seed alone, and it leaves no folder behind.

    Left to itself it draws numbers that it finds in the source of whatever is imported, and stops to shrink when a
    clock says so.
    """
    told = ((engine, "MAX_SHRINKING_SECONDS", math.inf), (providers, "_get_local_constants", Constants))
    with tempfile.TemporaryDirectory(prefix="edge-parity-") as folder, ExitStack() as stack:
        for owner, name, value in told:
            if hasattr(owner, name):  # a detail of Hypothesis, which may go
                stack.enter_context(set_within(owner, name, value))
        set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            set_hypothesis_home_dir(None)
