"""What a model of this route is: a published model that is exported itself, declared.

In: nothing. Out: `ExportHFModel`. Imports no framework.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from harness.align.modules import ModuleNames
from harness.spec.model import Model

# What every file of the exporter has: the KV cache of the engine that apps use, and a mask that the runtime fills.
VARIANT = "kv=transposed,mask-as-input"


@dataclass(frozen=True)
class ExportHFModel(Model):
    """A published model that litert-torch's `export_hf` converts without a re-authored one. name, hf_id and published
    are enough.

    names: where the published model keeps what is compared; without it they are read off the model that transformers
        builds of its config.
    """

    route: ClassVar[str] = "harness.stages.litert_torch.export_hf.route:ROUTE"
    prefill_logits: ClassVar[bool] = False

    names: ModuleNames | None = field(default=None, kw_only=True)
    prefill: tuple[int, ...] = field(default=(8, 32), kw_only=True)
    variant: str = field(default=VARIANT, kw_only=True)
