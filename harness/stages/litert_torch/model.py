"""The re-authored model of a run: its config at the sizes of the run, and what loads and converts it.

In: a declaration and a `ModelConfig`. Out: a `RouteModel`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.jobs.job import Dimensions, JobInput
from harness.names.recipes import Rules
from harness.names.variant import Variant
from harness.record.record import Finding
from harness.stages.litert_torch import keys, sizes
from harness.stages.litert_torch.convert import conversion_key, recipe_rules, to_flatbuffer
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.full_config import built_model
from harness.stages.litert_torch.loading import load_reauthored
from harness.stages.litert_torch.structure import position_tables, windows_of
from harness.weights.configs import without_initial_weights
from harness.weights.families import Sizes
from harness.weights.parameters import ParameterSource
from harness.weights.published_names import Reading


@dataclass(frozen=True)
class ReauthoredModel:
    """A `RouteModel`. variant: how it is converted; the config says already whether there are composites."""

    declared: GenerativeModel
    config: Any
    variant: Variant

    @property
    def longest(self) -> int:
        return int(self.config.max_seq_len)

    @property
    def rotates(self) -> bool:
        return not self.config.block_config(0).attn_config.use_alibi

    @property
    def rms_norms(self) -> bool:
        """Blocks of a user's own may put their norms anywhere."""
        return sizes.has_rms_norms(self.config) and not self.declared.alignment

    def dimensions(self) -> Dimensions:
        return sizes.dimensions_of(self.config)

    def sizes(self) -> list[Sizes]:
        return [sizes.sizes_at(self.config, block) for block in range(self.config.num_layers)]

    def row_widths(self) -> dict[str, int]:
        return sizes.row_widths(self.config)

    def tables(self) -> list[list[float]]:
        return position_tables(self.config)

    def windows(self) -> list[int]:
        return windows_of(self.config)

    def account_for_keys(
        self, folder: Path, dropped: Collection[str] = (), reading: Reading | None = None
    ) -> list[Finding]:
        return keys.account_for_keys(self.declared, folder, self.config, dropped, reading)

    def stops_loading(self, finding: Finding) -> bool:
        return keys.stops_loading(finding)

    def account_for_published_keys(self, network: Any) -> list[Finding]:
        return keys.account_for_published_keys(self.declared, network, self.config)

    def parameters(self, folder: Path) -> list[ParameterSource]:
        import torch

        with torch.device("meta"), without_initial_weights():
            own = built_model(self.declared, self.config).state_dict()
        return keys.sources_of(self.declared, self.config, folder, own)

    def conversion_key(
        self,
        weights_sha256: str,
        prefill: Sequence[int],
        kv_cache_len: int,
        code: Mapping[str, Any],
    ) -> str:
        return conversion_key(
            weights_sha256,
            self.config,
            self.declared.model_class,
            self.declared.load_weights or self.declared.tensor_names,
            list(prefill),
            kv_cache_len,
            self.variant,
            code,
        )

    def load(self, checkpoint: Path, kv_cache_len: int) -> Any:
        return load_reauthored(self.declared, checkpoint, self.config, kv_cache_len)

    def write(self, network: Any, file: Path, prefill: Sequence[int], kv_cache_len: int) -> None:
        to_flatbuffer(network, file, list(prefill), kv_cache_len, self.variant)

    def recipe_rules(self, mode: str) -> Rules:
        return recipe_rules(mode, self.config)

    def converts(self, mode: str) -> bool:
        return False

    def write_quantised(
        self,
        network: Any,
        file: Path,
        prefill: Sequence[int],
        kv_cache_len: int,
        mode: str,
        inputs: Sequence[JobInput],
    ) -> None:
        raise ValueError(f"{mode} is a list of rules, which are applied to the float32 file")
