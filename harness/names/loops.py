"""Files that generate by themselves: the loop of prefill and decodes stands in the graph, and an app calls it once.

In: nothing. Out: `Loop`s. Pure. They are beside the stages where a run generates, and compute no taps: what they give
is compared token by token, and as text.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.names.stages import KERAS


@dataclass(frozen=True)
class Loop:
    """words: what it is, for people. stage: the one that runs the version it is converted of. entry: "module:function",
    which converts it and runs it. text: whether it takes and gives text, and so has TensorFlow's operators in it.
    """

    name: str
    words: str
    stage: str
    entry: str
    text: bool = False


GREEDY, TEXT = "tflite-greedy", "tflite-text"
LOOPS = (
    Loop(GREEDY, "a file that generates by itself, ids to ids", KERAS, "harness.stages.keras.loop_job:run"),
    Loop(TEXT, "a file that generates by itself, text to text", KERAS, "harness.stages.keras.loop_job:run", text=True),
)


def loops_of(stage: str) -> tuple[Loop, ...]:
    """Those of a route, by the stage that runs its own version."""
    return tuple(loop for loop in LOOPS if loop.stage == stage)
