"""The re-authored config as the audit reads it, with a small model that shows what its class makes of it.

In: a model's declaration. Out: an `AuditedConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.audit.differences import reason
from harness.audit.placement import Placement, unknown_placement, watch
from harness.audit.structure import Structure
from harness.record.record import Finding
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.full_config import full_reauthored_config
from harness.stages.litert_torch.ignored_fields import ignored_fields
from harness.stages.litert_torch.miniature import shrink
from harness.stages.litert_torch.structure import reauthored_structure
from harness.stages.litert_torch.tiny import Tiny, probe_config

_PLACES: Mapping[str, str | None] = {
    "queries": "transformer_blocks.{}.atten_func.qkv_projection",
    "attention_out": "transformer_blocks.{}.atten_func.output_projection",
    "mlp_in": "transformer_blocks.{}.ff.w1",
    "norm_after": "transformer_blocks.{}.post_atten_norm",
}


class ReauthoredConfig:
    """An `AuditedConfig`."""

    def __init__(self, model: GenerativeModel) -> None:
        self._full, self._small = full_reauthored_config(model), shrink(model)[1]
        self._tiny = Tiny(model.model_class)

    def structure(self) -> Structure:
        return reauthored_structure(self._full, self._placement())

    def ignored(self) -> Iterator[Finding]:
        yield from ignored_fields(self._tiny, self._small, self._full)

    def _placement(self) -> Placement:
        config = probe_config(self._small)
        try:
            network = self._tiny.build(config)
        except Exception as error:
            return unknown_placement(f"the re-authored miniature cannot be built ({reason(error)})")
        return watch(network, _PLACES, lambda: self._tiny.run(network, config))
