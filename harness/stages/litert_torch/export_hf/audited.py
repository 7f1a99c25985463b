"""The config of an exported model as the audit reads it: the published one, since nothing else is made of it.

In: a declaration. Out: an `AuditedConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.audit.audit import published_placement
from harness.audit.published import build_published, published_structure
from harness.audit.structure import Structure
from harness.record.record import Finding
from harness.stages.litert_torch.export_hf.declaration import ExportHFModel
from harness.stages.litert_torch.export_hf.model import module_names
from harness.weights.configs import published_config
from harness.weights.miniature import shrunk_hf_config


@dataclass(frozen=True)
class ExportedConfig:
    """An `AuditedConfig`."""

    model: ExportHFModel

    def structure(self) -> Structure:
        config = published_config(self.model)
        placement = published_placement(self.model, shrunk_hf_config(self.model))
        return published_structure(config, module_names(self.model), placement, build_published(config))

    def ignored(self) -> Iterator[Finding]:
        yield from ()
