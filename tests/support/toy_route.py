"""A route in NumPy: its own version of a model is the published sizes and the checkpoint's tensors, and no more.

It shows what a route has to bring for a run without a conversion: this file, and a declaration derived of `Model`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.align.modules import ModuleMap, ModuleNames, hf_modules
from harness.audit.audit import published_placement
from harness.audit.published import build_published, published_structure
from harness.audit.structure import Structure
from harness.jobs.job import Dimensions, dimensions_of
from harness.names.stages import REAUTHORED
from harness.names.variant import Variant
from harness.record.record import Finding
from harness.spec.model import Model
from harness.spec.route import Packages
from harness.store.cache import key_of
from harness.weights.configs import published_config
from harness.weights.families import Sizes, sizes_of
from harness.weights.files import stored_tensors
from harness.weights.first_layers import first_layers_published
from harness.weights.miniature import shrunk_hf_config
from harness.weights.parameters import ParameterSource


@dataclass(frozen=True)
class ToyModel(Model):
    """names: where the published model keeps what is compared."""

    route: ClassVar[str] = "toy_route:ROUTE"

    names: ModuleNames


@dataclass(frozen=True)
class ToyAtSizes:
    """A `RouteModel`. config: the published one, at the sizes of the run."""

    declared: ToyModel
    config: Any
    longest: int = 64
    rotates: bool = True
    rms_norms: bool = True

    def dimensions(self) -> Dimensions:
        return dimensions_of(sizes_of(self.config))

    def sizes(self) -> list[Sizes]:
        return [sizes_of(self.config, block) for block in range(sizes_of(self.config).layers)]

    def row_widths(self) -> dict[str, int]:
        return {"the hidden size": sizes_of(self.config).hidden}

    def tables(self) -> list[list[float]]:
        return []

    def windows(self) -> list[int]:
        return []

    def account_for_keys(self, folder: Path, dropped: Collection[str] = (), reading: Any = None) -> list[Finding]:
        """It takes every tensor that there is."""
        return []

    def account_for_published_keys(self, network: Any) -> list[Finding]:
        return []

    def stops_loading(self, finding: Finding) -> bool:
        return False

    def parameters(self, folder: Path) -> list[ParameterSource]:
        return [ParameterSource(parameter=key, keys=[key]) for key in stored_tensors(folder)]

    def conversion_key(
        self, weights_sha256: str, prefill: Sequence[int], kv_cache_len: int, code: Mapping[str, Any]
    ) -> str:
        return key_of({"weights": weights_sha256, "lengths": [*prefill, kv_cache_len], "code": code})


@dataclass(frozen=True)
class ToyConfig:
    """An `AuditedConfig`: the toy has the published one."""

    model: ToyModel

    def structure(self) -> Structure:
        config, names = published_config(self.model), self.model.names
        placement = published_placement(self.model, shrunk_hf_config(self.model))
        return published_structure(config, names, placement, build_published(config))

    def ignored(self) -> Iterator[Finding]:
        yield from ()


class Toy:
    """A `Route`, as far as a run without a conversion asks it."""

    declaration = ToyModel
    stage = REAUTHORED
    packages = Packages(own="toy_package", converting={})
    extra = ""
    preloaded = False

    def names(self, model: ToyModel) -> ModuleNames:
        return model.names

    def loads_by_names(self, model: ToyModel) -> bool:
        return True

    def modules(self, model: ToyModel, *, fused_gate: bool) -> ModuleMap:
        """It calls its parts as the published model does."""
        return hf_modules(model.names, fused_gate=fused_gate)

    def own_blocks(self, model: ToyModel) -> bool:
        return False

    def never_reaches(self, model: ToyModel, window: int) -> bool:
        return False

    def full_sizes(self, model: ToyModel) -> Sizes:
        return sizes_of(published_config(model))

    def model(
        self, model: ToyModel, *, miniature: bool, layers: int | None = None, variant: Variant | None = None
    ) -> ToyAtSizes:
        if miniature:
            return ToyAtSizes(model, shrunk_hf_config(model, layers))
        return ToyAtSizes(model, published_config(model) if layers is None else first_layers_published(model, layers))

    def declared_recipes(self, model: ToyModel) -> tuple[str, ...]:
        return ()

    def audited(self, model: ToyModel) -> ToyConfig:
        return ToyConfig(model)

    def audit_builder(self, model: ToyModel, network: Any) -> list[Finding]:
        return []


ROUTE = Toy()
