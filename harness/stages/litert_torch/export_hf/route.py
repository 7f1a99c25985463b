"""What the export route answers to the engine: the published model itself becomes a file, by `export_hf`.

In: declarations, `ExportHFModel`. Out: `ROUTE`. Importing it imports no framework: what needs one is imported where it
is asked for. The route has no version of its own: its file is compared with the stage `hf`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.align.modules import ModuleMap, ModuleNames, hf_modules
from harness.errors import UsageError
from harness.names.stages import HF
from harness.names.variant import Variant
from harness.spec.route import Load, RouteModel
from harness.stages.litert_torch.export_hf.declaration import ExportHFModel
from harness.stages.litert_torch.packages import PACKAGES

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from harness.align.op_graph import OpGraph
    from harness.bench.mistake import Mistake, Site
    from harness.explain.evidence_file import SavedEvidence
    from harness.jobs.job import Job
    from harness.jobs.prepared import Prepared
    from harness.record.record import Finding
    from harness.spec.route import AuditedConfig, RecordedTaps
    from harness.weights.families import Sizes


class ExportRoute:
    """A `Route`."""

    declaration = ExportHFModel
    stage = HF
    packages = PACKAGES
    extra = ""
    preloaded = False

    def import_layers(self) -> None:
        """A declaration imports transformers alone."""

    def import_frameworks(self) -> None:
        from harness.stages.litert_torch.export_hf.imports import import_exporter

        import_exporter()

    def names(self, model: ExportHFModel) -> ModuleNames:
        from harness.stages.litert_torch.export_hf.model import module_names

        found: ModuleNames = module_names(model)
        return found

    def loads_by_names(self, model: ExportHFModel) -> bool:
        """transformers loads the weights, by its own names."""
        return False

    def modules(self, model: ExportHFModel, *, fused_gate: bool) -> ModuleMap:
        return hf_modules(self.names(model), fused_gate=fused_gate)

    def own_blocks(self, model: ExportHFModel) -> bool:
        return False

    def never_reaches(self, model: ExportHFModel, window: int) -> bool:
        return False

    def full_sizes(self, model: ExportHFModel) -> Sizes:
        from harness.weights.configs import published_config
        from harness.weights.families import sizes_of

        return sizes_of(published_config(model).get_text_config())

    def model(
        self, model: ExportHFModel, *, miniature: bool, layers: int | None = None, variant: Variant | None = None
    ) -> RouteModel:
        from harness.stages.litert_torch.export_hf.model import sized

        _refuse_other(variant, model.name)
        return sized(model, miniature=miniature, layers=layers)

    def at_sizes(self, model: ExportHFModel, *, miniature: bool, layers: int | None) -> ExportHFModel:
        from harness.stages.litert_torch.export_hf.model import sized

        own = sized(model, miniature=miniature, layers=layers)
        return dataclasses.replace(model, published=lambda: copy.deepcopy(own.config))

    def audited(self, model: ExportHFModel) -> AuditedConfig:
        from harness.stages.litert_torch.export_hf.audited import ExportedConfig

        return ExportedConfig(model)

    def audit_builder(self, model: ExportHFModel, network: Any) -> list[Finding]:
        return []

    def declared_recipes(self, model: ExportHFModel) -> tuple[str, ...]:
        return ()

    def declared_rules(self, model: ExportHFModel, name: str, own: RouteModel) -> object:
        raise UsageError(f"{model.name}: an ExportHFModel declares no recipes of its own")

    def record(self, job: Job, model: ExportHFModel, block: int | None) -> RecordedTaps:
        raise UsageError(f"{model.name}: an exported model has no version of its own whose operators could be recorded")

    def operators(self, model: ExportHFModel, prepared: Prepared, length: int) -> OpGraph:
        raise UsageError(f"{model.name}: an exported model has no version of its own beside the Hugging Face one")

    def write_piece(
        self, saved: SavedEvidence, prepared: Prepared, model: ExportHFModel, target: Path, load: Load | None
    ) -> dict[str, np.ndarray[Any, Any]]:
        raise UsageError(
            f"{saved.tap}: an exported model has no version of its own to cut a piece of; --repro takes faults of the "
            "flatbuffer"
        )

    def faults(self) -> Iterator[Mistake]:
        yield from ()

    def with_fault(self, model: ExportHFModel, site: Site, own: RouteModel) -> ExportHFModel | None:
        return None

    def verifier_complains(self, original: Any, network: Any) -> bool:
        return False


def _refuse_other(variant: Variant | None, name: str) -> None:
    """Raises UsageError for what `export_hf` cannot be told."""
    if variant is not None and (variant.kv_layout != "transposed" or not variant.mask_as_input):
        raise UsageError(
            f"{name}: export_hf writes a transposed KV cache and takes the mask as an input, always; leave "
            "--kv-layout and --mask-inside out"
        )


ROUTE = ExportRoute()
