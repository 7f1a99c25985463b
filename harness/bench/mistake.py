"""What a fault of the catalogue is: where it is made, how, and what a run should say of it.

In: nothing. Out: `Mistake` and the sites that a fault can be made at.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.bench.breaking import Change, Tensors
from harness.bench.narrow_weight import NarrowWeight
from harness.bench.workbench import FILE_STAGES
from harness.names.recipes import Rules
from harness.names.stages import XNNPACK

Array = np.ndarray[Any, Any]
KINDS = (
    "re-authored config",
    "re-authored code",
    "weight mapping",
    "weights",
    "flatbuffer constants",
    "flatbuffer ops",
    "runtime",
    "quantised file",
    "quantised runtime",
)
QUANTISED_KINDS = KINDS[-2:]


@dataclass(frozen=True)
class Config:
    """A field of the re-authored config: `change` gets the example's own `ModelConfig`."""

    change: Change


@dataclass(frozen=True)
class Network:
    """The loaded re-authored model, its code or its weights; `around`: what is patched while it runs."""

    change: Change
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Names:
    """The declaration's weight names: entry of `TensorNames` -> its wrong value. Every stage is run with them."""

    entries: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Loader:
    """A loader of the model's own: `change` gets what the right one makes, by re-authored name."""

    change: Callable[[Tensors], Any]


@dataclass(frozen=True)
class Stored:
    """The checkpoint itself, which every version loads: `change` gets its tensors by Hugging Face name."""

    change: Callable[[Tensors], Any]


@dataclass(frozen=True)
class Constant:
    """A weight in the flatbuffer, by the name that `Bench.constant` takes; `change` gets its values and returns others.

    stages: the runtimes that are given the broken file.
    """

    name: str
    change: Callable[[Array], Any]
    stages: tuple[str, ...] = FILE_STAGES


@dataclass(frozen=True)
class Exchange:
    """Two weights of the flatbuffer in each other's place."""

    one: str
    other: str


@dataclass(frozen=True)
class Operators:
    """The flatbuffer's graph: `change` gets its object form. stages: the runtimes that are given the broken file."""

    change: Callable[[Any], Any]
    stages: tuple[str, ...] = FILE_STAGES


@dataclass(frozen=True)
class AsShipped:
    """Nothing is broken: the fault is in what ships. The model is one with a known defect."""


@dataclass(frozen=True)
class InQuantised:
    """A quantised file that ships, of a recipe: `change` gets a layer's weight in it."""

    recipe: str
    layer: str
    change: Callable[[NarrowWeight], Any]


@dataclass(frozen=True)
class OtherRules:
    """A quantised file that was made by other rules than its recipe's, which `change` gets."""

    recipe: str
    change: Callable[[Rules], Rules]


@dataclass(frozen=True)
class ReadByKernels:
    """What the kernels of one runtime read of a right quantised file, otherwise as `InQuantised`."""

    recipe: str
    layer: str
    change: Callable[[NarrowWeight], Any]
    kernels: str = XNNPACK


@dataclass(frozen=True)
class Kernel:
    """A runtime on XNNPACK whose kernels compute something else with the right file.

    around: makes the fake-quantised stage compute like that, whose values then stand for the runtime's.
    """

    recipe: str
    around: Callable[[], AbstractContextManager[Any]]


QuantisedSite = InQuantised | OtherRules | ReadByKernels | Kernel
Site = Config | Network | Names | Loader | Stored | Constant | Exchange | Operators | AsShipped | QuantisedSite


@dataclass(frozen=True)
class Mistake:
    """A fault that is made on purpose.

    name: unique among its kind. what: in a few words.

    taps: any of them is right, where the fault acts at several at once. causes: hypotheses that say what it is, or of a
    quantised file codes of findings; none where none is to be expected.
    only_in: the signatures that alone have it, "decode" or "prefill", where that is to be said.
    """

    name: str
    kind: str
    model: str
    what: str
    site: Site
    hop: str
    taps: tuple[str, ...]
    causes: tuple[str, ...] = ()
    only_in: str = field(default="", kw_only=True)

    @property
    def id(self) -> str:
        """E.g. `weight-mapping/gate-up-names`."""
        return f"{self.kind.replace(' ', '-')}/{self.name}"
