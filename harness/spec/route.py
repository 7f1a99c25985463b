"""What the engine asks of a route: the way by which a published model becomes a flatbuffer.

In: a declaration. Out: the `Route` that answers for it. The engine knows no route: it asks what is written here, and a
route's own folder in `harness/stages/` answers. What a route has of a model, before and after weights are loaded, is
its `RouteModel`: the re-authored model of litert-torch, say.

Routes are found late, by name: whoever asks imports no route's code, and a route may import what it likes of the
engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import UsageError
from harness.names.routes import known_routes

if TYPE_CHECKING:
    import numpy as np

    from harness.align.modules import ModuleMap, ModuleNames
    from harness.align.op_graph import OpGraph
    from harness.audit.structure import Structure
    from harness.bench.mistake import Mistake, Site
    from harness.explain.evidence_file import SavedEvidence
    from harness.jobs.job import Dimensions, Job, JobInput
    from harness.jobs.prepared import Prepared
    from harness.names.recipes import Rules
    from harness.names.variant import Variant
    from harness.record.record import Finding
    from harness.spec.model import Model
    from harness.weights.families import Sizes
    from harness.weights.parameters import ParameterSource
    from harness.weights.published_names import Reading

    RecordedTaps = Mapping[int, Sequence[tuple[str, np.ndarray[Any, Any]]]]

Load = Callable[["RouteModel", Path, int], Any]
"""Loads a network: the model at its sizes, a checkpoint's folder, positions of the KV cache."""


@dataclass(frozen=True)
class Packages:
    """Which packages a route is made of, and what in them decides what a conversion makes.

    own: the top-level package that a declaration imports. It is watched for what a spec replaces in it, and a spec
        that imports it needs `Route.import_layers` first.
    converting: top-level package -> distribution, of all that a conversion is made with: their versions and what in
        them is not as installed belong in its key.
    edited: those of them that are small and that people edit: their sources are always read.
    recorded: distributions whose versions the record shows, and a preparation rests on.
    tables: where `own` keeps what it was told to do with an operator: module, attributes on the way to a dict.
    variables: beginnings of the environment variables that are read while a model is converted.
    talk: beginnings of those among them that only say what is shown.
    """

    own: str
    converting: Mapping[str, str]
    edited: frozenset[str] = frozenset()
    recorded: tuple[str, ...] = ()
    tables: tuple[tuple[str, ...], ...] = ()
    variables: tuple[str, ...] = ()
    talk: tuple[str, ...] = ()


class RouteModel(Protocol):
    """A route's own version of a model at the sizes of a run: before any weight, and what loads and converts it."""

    @property
    def longest(self) -> int:
        """Positions that it computes at most."""

    @property
    def rotates(self) -> bool:
        """Whether queries and keys are rotated: without a rotary embedding there are no such taps."""

    @property
    def rms_norms(self) -> bool:
        """Whether the norms of all blocks and the final one are known to be RMS norms."""

    def dimensions(self) -> Dimensions:
        """Its own sizes alone, and its own layouts; what the published model has beside them the engine adds."""

    def sizes(self) -> list[Sizes]:
        """Those of each block, to hold them against the published ones."""

    def row_widths(self) -> dict[str, int]:
        """How long the rows of its weights are, by words for what they take: recipes quantise them in parts."""

    def tables(self) -> list[list[float]]:
        """What it makes of positions, each list once: the rotary frequencies of its blocks in radians per position, and
        the ALiBi bias of each head per position. A file holds them as constants."""

    def windows(self) -> list[int]:
        """The sliding windows of its blocks in positions, each once, ascending."""

    def account_for_keys(
        self, folder: Path, dropped: Collection[str] = (), reading: Reading | None = None
    ) -> list[Finding]:
        """What loading a checkpoint loses or lacks; empty when every key and every parameter has its place.

        dropped: keys that transformers leaves out too. reading: of a folder whose tensors are to be read under other
        names than it has.
        """

    def stops_loading(self, finding: Finding) -> bool:
        """Whether a finding of `account_for_keys` is about weights that cannot be loaded at all."""

    def account_for_published_keys(self, network: Any) -> list[Finding]:
        """The same for a checkpoint that is not here. network: the Hugging Face model, without memory."""

    def parameters(self, folder: Path) -> list[ParameterSource]:
        """Which tensors of a checkpoint each of its parameters is made of, as far as that is known."""

    def conversion_key(
        self,
        weights_sha256: str,
        prefill: Sequence[int],
        kv_cache_len: int,
        code: Mapping[str, Any],
    ) -> str:
        """The cache key of a conversion: all that its bytes depend on.

        prefill: lengths of the signatures. code: what the spec is made of, reads and changes.
        """

    def load(self, checkpoint: Path, kv_cache_len: int) -> Any:
        """The network with the weights of a folder, in float32. Raises UsageError for what cannot be loaded."""

    def write(self, network: Any, file: Path, prefill: Sequence[int], kv_cache_len: int) -> None:
        """Convert what `load` gave to a float32 file, with a signature `prefill_N` for each length and `decode`."""

    def recipe_rules(self, mode: str) -> Rules:
        """What a mode of the route's own converter does to that file, as a recipe of ai-edge-quantizer."""

    def converts(self, mode: str) -> bool:
        """Whether a mode is a conversion of its own: `recipe_rules` then says what it should come to, and nobody
        applies them to the float32 file."""

    def write_quantised(
        self,
        network: Any,
        file: Path,
        prefill: Sequence[int],
        kv_cache_len: int,
        mode: str,
        inputs: Sequence[JobInput],
    ) -> None:
        """As `write`, in such a mode. inputs: those of the run, by which ranges may be found.

        Raises UsageError for what the converter refuses.
        """


class AuditedConfig(Protocol):
    """A route's own config, read to be held against the published one. Of full size, with a miniature that runs."""

    def structure(self) -> Structure:
        """What it says of the model, and what a run of the miniature showed."""

    def ignored(self) -> Iterator[Finding]:
        """What is set in it and changes nothing. Raises whatever the model raises on its own config."""


class Route(Protocol):
    """The way by which a published model becomes a flatbuffer. Importing one imports no framework.

    declaration: the class of its declarations. stage: the name of the one that runs its own version. packages: what it
    is made of. extra: of the distribution that brings those, empty where its installation does. preloaded: whether the
    process that stages are forked from imports its frameworks, for all runs.
    """

    @property
    def declaration(self) -> type[Model]: ...
    @property
    def stage(self) -> str: ...
    @property
    def packages(self) -> Packages: ...
    @property
    def extra(self) -> str: ...
    @property
    def preloaded(self) -> bool: ...

    def import_layers(self) -> None:
        """What a declaration imports of `packages.own`, before it does."""

    def import_frameworks(self) -> None:
        """All that its stages and its conversions import. Starts no thread and runs no operator."""

    def names(self, model: Any) -> ModuleNames:
        """Where the published model keeps what is compared."""

    def loads_by_names(self, model: Any) -> bool:
        """Whether its weights are loaded by those names, so that each may stand for one module alone."""

    def modules(self, model: Any, *, fused_gate: bool) -> ModuleMap:
        """Where its own PyTorch version has the points; without blocks for a route that has no such version.

        fused_gate: whether one projection holds the MLP's gate and up.
        """

    def own_blocks(self, model: Any) -> bool:
        """Whether the blocks are the user's own, about which nothing is known but what the declaration says."""

    def never_reaches(self, model: Any, window: int) -> bool:
        """Whether a published sliding window is one that no input of the route's model outgrows, and that it leaves
        out. Shrunk on one side alone, such a window would act in the miniature and at full size never."""

    def full_sizes(self, model: Any) -> Sizes:
        """Those of the declared config, of block 0. Raises UsageError where the declaration gives none."""

    def model(
        self, model: Any, *, miniature: bool, layers: int | None = None, variant: Variant | None = None
    ) -> RouteModel:
        """The model at the sizes of a run, to be converted as a variant says, or as it is declared.

        layers: of the miniature, None for as many as it needs; without a miniature the first so many, None for all.
        Raises UsageError where the declaration cannot be built, or has fewer layers.
        """

    def at_sizes(self, model: Any, *, miniature: bool, layers: int | None) -> Model:
        """A declaration that says as full size what `model` has at the sizes of a run."""

    def audited(self, model: Any) -> AuditedConfig:
        """Its own config, for the audit. Raises UsageError where the declaration gives none."""

    def audit_builder(self, model: Any, network: Any) -> list[Finding]:
        """What the loader that comes with the model does that Edge Parity's does not show.

        network: the published model, without memory.
        """

    def declared_recipes(self, model: Any) -> tuple[str, ...]:
        """The names of the quantisation recipes that a declaration has of its own. Raises UsageError where they are no
        recipes by name."""

    def declared_rules(self, model: Any, name: str, own: RouteModel) -> object:
        """What one of them asks for, as a list of ai-edge-quantizer's rules, which nobody has checked.

        own: the model at the sizes of the run. Raises UsageError where the declaration gives no such thing.
        """

    def record(self, job: Job, model: Any, block: int | None) -> RecordedTaps:
        """Trace the one input of a job, and keep what is computed in a block and outside of all, operator by operator.

        Returns position of a step's start -> named tensors, in order of computation.
        """

    def operators(self, model: Any, prepared: Prepared, length: int) -> OpGraph:
        """The operators of its own version on so many tokens and an empty KV cache, as it is converted."""

    def write_piece(
        self, saved: SavedEvidence, prepared: Prepared, model: Any, target: Path, load: Load | None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Write the faulty piece of its own version into a folder, as a file that torch alone can load.

        saved: the evidence. Returns the arrays of the script. Raises UsageError for what cannot be cut out.
        """

    def faults(self) -> Iterator[Mistake]:
        """Faults of its own version, for the catalogue of the bench."""

    def with_fault(self, model: Any, site: Site, own: RouteModel) -> Model | None:
        """A declaration with a fault of the config, of names or of loading; None for a fault that is in none.

        own: the model at the sizes of the bench.
        """

    def verifier_complains(self, original: Any, network: Any) -> bool:
        """Whether the check that comes with the route's packages sees a fault. original: the Hugging Face network."""


def route_named(name: str) -> Route:
    """The route of "module:object"."""
    module, _, attribute = name.partition(":")
    route: Route = getattr(importlib.import_module(module), attribute)
    return route


def route_of(model: Model) -> Route:
    """The route of a declaration. Raises UsageError for a declaration that names none."""
    if not model.route:
        raise UsageError(f"{model.name}: a {type(model).__name__} names no route; declare a {class_words()}")
    return route_named(model.route)


def every_route() -> tuple[Route, ...]:
    """Those that are known before a declaration has been run."""
    return tuple(map(route_named, known_routes()))


def class_words(form: str = "{}") -> str:
    """What a spec file declares, for people: the classes of all routes."""
    return " or ".join(form.format(route.declaration.__name__) for route in every_route())


def converting() -> dict[str, str]:
    """Top-level package -> distribution, of all that conversions are made with."""
    return {package: name for route in every_route() for package, name in route.packages.converting.items()}


def recorded_distributions() -> tuple[str, ...]:
    """Distributions of routes whose versions the record shows, each once."""
    return tuple(dict.fromkeys(name for route in every_route() for name in route.packages.recorded))
