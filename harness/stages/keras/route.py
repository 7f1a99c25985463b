"""What the Keras route answers to the engine: a model of KerasHub, converted by TensorFlow.

In: declarations, `KerasModel`. Out: `ROUTE`. Importing it imports no framework: what needs one is imported where it is
asked for.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.align.modules import ModuleMap, ModuleNames
from harness.errors import UsageError
from harness.names.stages import KERAS
from harness.names.variant import Variant
from harness.spec.route import Load, RouteModel
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.packages import PACKAGES
from harness.system.extras import KERAS as KERAS_EXTRA

if TYPE_CHECKING:
    import numpy as np

    from harness.align.op_graph import OpGraph
    from harness.bench.mistake import Mistake, Site
    from harness.explain.evidence_file import SavedEvidence
    from harness.jobs.job import Job
    from harness.jobs.prepared import Prepared
    from harness.record.record import Finding
    from harness.spec.route import AuditedConfig, RecordedTaps
    from harness.weights.families import Sizes


class KerasRoute:
    """A `Route`."""

    declaration = KerasModel
    stage = KERAS
    packages = PACKAGES
    extra = KERAS_EXTRA
    preloaded = False

    def import_layers(self) -> None:
        from harness.stages.keras.imports import import_keras_hub

        import_keras_hub()

    def import_frameworks(self) -> None:
        self.import_layers()

    def names(self, model: KerasModel) -> ModuleNames:
        return model.names

    def loads_by_names(self, model: KerasModel) -> bool:
        """KerasHub's loader knows its names itself."""
        return False

    def modules(self, model: KerasModel, *, fused_gate: bool) -> ModuleMap:
        from harness.stages.keras.points import keras_modules

        return keras_modules()

    def own_blocks(self, model: KerasModel) -> bool:
        return False

    def never_reaches(self, model: KerasModel, window: int) -> bool:
        return False

    def full_sizes(self, model: KerasModel) -> Sizes:
        from harness.stages.keras.model import own_sizes
        from harness.weights.configs import published_config

        return own_sizes(published_config(model))

    def model(
        self, model: KerasModel, *, miniature: bool, layers: int | None = None, variant: Variant | None = None
    ) -> RouteModel:
        from harness.stages.keras.model import sized

        _refuse_other(variant, model.name)
        return sized(model, miniature=miniature, layers=layers)

    def at_sizes(self, model: KerasModel, *, miniature: bool, layers: int | None) -> KerasModel:
        from harness.stages.keras.model import sized

        own = sized(model, miniature=miniature, layers=layers)
        return dataclasses.replace(model, published=lambda: copy.deepcopy(own.config))

    def audited(self, model: KerasModel) -> AuditedConfig:
        from harness.stages.keras.audited import KerasConfig

        return KerasConfig(model)

    def audit_builder(self, model: KerasModel, network: Any) -> list[Finding]:
        return []

    def declared_recipes(self, model: KerasModel) -> tuple[str, ...]:
        return ()

    def declared_rules(self, model: KerasModel, name: str, own: RouteModel) -> object:
        raise UsageError(f"{model.name}: a KerasModel declares no recipes of its own")

    def record(self, job: Job, model: KerasModel, block: int | None) -> RecordedTaps:
        from harness.stages.keras.recording import record

        return record(job, model)

    def operators(self, model: KerasModel, prepared: Prepared, length: int) -> OpGraph:
        from harness.stages.keras.operators import keras_ops

        return keras_ops(model, prepared, length)

    def write_piece(
        self, saved: SavedEvidence, prepared: Prepared, model: KerasModel, target: Path, load: Load | None
    ) -> dict[str, np.ndarray[Any, Any]]:
        raise UsageError(
            f"{saved.tap}: a piece of a Keras model cannot be cut out as a file for torch; --repro takes faults of the "
            "flatbuffer"
        )

    def faults(self) -> Iterator[Mistake]:
        yield from ()

    def with_fault(self, model: KerasModel, site: Site, own: RouteModel) -> KerasModel | None:
        return None

    def verifier_complains(self, original: Any, network: Any) -> bool:
        return False


def _refuse_other(variant: Variant | None, name: str) -> None:
    """Raises UsageError for what litert-torch alone can be told."""
    if variant is not None and (variant.kv_layout != "default" or variant.mask_as_input):
        raise UsageError(f"{name}: --kv-layout and --mask-as-input are of litert-torch; leave them out")


ROUTE = KerasRoute()
