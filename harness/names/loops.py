"""What generates by itself: a file with the loop of prefill and decodes in its graph, and the engine that apps use.

In: nothing. Out: `Loop`s. Pure. They are beside the stages where a run generates, and compute no taps: what they give
is compared token by token, and as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from harness.names.stages import KERAS, XNNPACK, named, split


@dataclass(frozen=True)
class Loop:
    """words: what it is, for people. stage: the one that it is held against: that runs the version it is converted of,
    or the same file. entry: "module:function", which makes it and runs it. text: whether it takes and gives text, and
    so has TensorFlow's operators in it. follows: whether it says what comes after each of the reference's tokens too.
    """

    name: str
    words: str
    stage: str
    entry: str
    text: bool = False
    follows: bool = False


GREEDY, TEXT, ENGINE = "tflite-greedy", "tflite-text", "litert-lm"
LOOPS = (
    Loop(GREEDY, "a file that generates by itself, ids to ids", KERAS, "harness.stages.keras.loop_job:run"),
    Loop(TEXT, "a file that generates by itself, text to text", KERAS, "harness.stages.keras.loop_job:run", text=True),
)


def loops_of(stage: str) -> tuple[Loop, ...]:
    """Those of a route, by the stage that runs its own version."""
    return tuple(loop for loop in LOOPS if loop.stage == stage)


_ENGINE = Loop(
    ENGINE, "the engine that apps load a bundle into", XNNPACK, "harness.stages.litert_lm.generate:run", follows=True
)


def engine_of(recipe: str) -> Loop:
    """The engine on the file of a recipe, held against XNNPACK on that file."""
    return replace(_ENGINE, name=named(ENGINE, recipe), stage=named(XNNPACK, recipe))


def loops_named(names: Iterable[str]) -> tuple[Loop, ...]:
    """Those of some names, in that order; a name of nothing that generates by itself is passed over."""
    known = {loop.name: loop for loop in LOOPS}
    every = ((name, *split(name)) for name in names)
    return tuple(
        engine_of(recipe) if base == ENGINE else known[name]
        for name, base, recipe in every
        if base == ENGINE or name in known
    )
