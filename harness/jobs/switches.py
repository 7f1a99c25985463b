"""What a stage that can compute with a quantised file's numbers in some of its layers is to the engine.

In: nothing. Out: the contract (`Switches`). A stage's line in `harness/names/stages.py` names the function
`open_switches` that yields one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from harness.jobs.job import Job, JobInput
from harness.system.named_function import named_function

Logits = Iterator[tuple[JobInput, np.ndarray[Any, Any]]]  # of each input, float32 `[1, positions, vocabulary]`


@dataclass(frozen=True)
class OwnError:
    """What a layer gets wrong on the float model's own inputs. error: as a share of the norm of its output.

    inputs_share, outlier_share: see `harness/record/sensitivity.py`.
    """

    error: float
    inputs_share: float
    outlier_share: float


@dataclass(frozen=True)
class SwitchedTensor:
    """A tensor that is chosen at once. name: the taps that it makes. layer: whose weight it is, or is a part of.

    size: how many numbers.
    """

    name: str
    layer: str
    size: int


class Switches(Protocol):
    """A model whose layers hold their own numbers or those of a file, but for one tensor at a time."""

    @property
    def tensors(self) -> Sequence[SwitchedTensor]:
        """In execution order."""

    def float_logits(self) -> Logits:
        """Of the model with its own numbers alone."""

    def base_logits(self) -> Logits:
        """With the file's numbers in every layer, or with its own: as it was opened."""

    def changed_logits(self, name: str) -> Logits:
        """As `base_logits`, with one tensor the other way. To be called after it."""

    def own_errors(self) -> dict[str, OwnError]:
        """Of each tensor by name."""


class Opener(Protocol):
    """from_file: see `Switches.base_logits`. by_layer: a layer's weight is one tensor, whatever taps it makes."""

    def __call__(
        self, job: Job, items: Sequence[JobInput], *, from_file: bool, by_layer: bool
    ) -> AbstractContextManager[Switches]: ...


def opener(where: str) -> Opener:
    """where: "module:function"."""
    found: Opener = named_function(where)
    return found
