"""What litert-torch's Generative API answers to the engine: a decoder is re-authored in PyTorch, and converted.

In: declarations, `GenerativeModel`. Out: `ROUTE`. Importing it imports no framework: what needs one is imported where
it is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.names.stages import REAUTHORED
from harness.names.variant import Variant
from harness.spec.route import Load, RouteModel
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.packages import PACKAGES

if TYPE_CHECKING:
    import numpy as np

    from harness.align.modules import ModuleMap, ModuleNames
    from harness.align.op_graph import OpGraph
    from harness.bench.mistake import Mistake, Site
    from harness.explain.evidence_file import SavedEvidence
    from harness.jobs.job import Job
    from harness.jobs.prepared import Prepared
    from harness.record.record import Finding
    from harness.spec.route import AuditedConfig, RecordedTaps
    from harness.weights.families import Sizes


class GenerativeRoute:
    """A `Route`."""

    declaration = GenerativeModel
    stage = REAUTHORED
    packages = PACKAGES
    extra = ""
    preloaded = True

    def import_layers(self) -> None:
        from harness.stages.litert_torch.imports import import_litert_torch

        import_litert_torch()

    def import_frameworks(self) -> None:
        from harness.stages.litert_torch.imports import import_converter

        import_converter()

    def names(self, model: GenerativeModel) -> ModuleNames:
        names: ModuleNames = model.tensor_names
        return names

    def loads_by_names(self, model: GenerativeModel) -> bool:
        return model.load_weights is None

    def modules(self, model: GenerativeModel, *, fused_gate: bool) -> ModuleMap:
        from harness.stages.litert_torch.modules import own_modules

        return own_modules(model, fused_gate=fused_gate)

    def own_blocks(self, model: GenerativeModel) -> bool:
        return bool(model.alignment)

    def never_reaches(self, model: GenerativeModel, window: int) -> bool:
        from harness.stages.litert_torch.miniature import never_reaches

        return never_reaches(model, window)

    def full_sizes(self, model: GenerativeModel) -> Sizes:
        from harness.stages.litert_torch.full_config import full_reauthored_config
        from harness.stages.litert_torch.sizes import sizes_at

        return sizes_at(full_reauthored_config(model))

    def model(
        self, model: GenerativeModel, *, miniature: bool, layers: int | None = None, variant: Variant | None = None
    ) -> RouteModel:
        from harness.stages.litert_torch.config import reauthored_config
        from harness.stages.litert_torch.model import ReauthoredModel

        chosen = variant or Variant()
        config = reauthored_config(model, miniature=miniature, layers=layers, hlfb=chosen.hlfb)
        return ReauthoredModel(model, config, chosen)

    def at_sizes(self, model: GenerativeModel, *, miniature: bool, layers: int | None) -> GenerativeModel:
        import copy

        from harness.stages.litert_torch.config import reauthored_config

        config = reauthored_config(model, miniature=miniature, layers=layers)
        return dataclasses.replace(model, config=lambda: copy.deepcopy(config))

    def audited(self, model: GenerativeModel) -> AuditedConfig:
        from harness.stages.litert_torch.audited import ReauthoredConfig

        return ReauthoredConfig(model)

    def audit_builder(self, model: GenerativeModel, network: Any) -> list[Finding]:
        from harness.stages.litert_torch.builder import audit_builder

        return audit_builder(model, network)

    def declared_recipes(self, model: GenerativeModel) -> tuple[str, ...]:
        from harness.stages.litert_torch.recipes import declared_recipes

        return declared_recipes(model)

    def declared_rules(self, model: GenerativeModel, name: str, own: RouteModel) -> object:
        from harness.stages.litert_torch.model import ReauthoredModel
        from harness.stages.litert_torch.recipes import declared_rules

        assert isinstance(own, ReauthoredModel)
        return declared_rules(model, name, own.config)

    def record(self, job: Job, model: GenerativeModel, block: int | None) -> RecordedTaps:
        from harness.stages.litert_torch.recording import record

        return record(job, model, block)

    def operators(self, model: GenerativeModel, prepared: Prepared, length: int) -> OpGraph:
        from harness.stages.litert_torch.operators import reauthored_ops

        return reauthored_ops(model, prepared, length)

    def write_piece(
        self, saved: SavedEvidence, prepared: Prepared, model: GenerativeModel, target: Path, load: Load | None
    ) -> dict[str, np.ndarray[Any, Any]]:
        from harness.stages.litert_torch.repro import trace_out

        return trace_out(saved, prepared, model, target, load)

    def faults(self) -> Iterator[Mistake]:
        from harness.stages.litert_torch.faults import code, config, decode, kernels, weights

        yield from (*config.FAULTS, *code.FAULTS, *decode.FAULTS, *weights.FAULTS, *kernels.FAULTS)

    def with_fault(self, model: GenerativeModel, site: Site, own: RouteModel) -> GenerativeModel | None:
        from harness.stages.litert_torch.faults.declarations import with_fault

        return with_fault(model, site, own)

    def verifier_complains(self, original: Any, network: Any) -> bool:
        from harness.stages.litert_torch.verifier import verifier_complains

        return verifier_complains(original, network)


ROUTE = GenerativeRoute()
