"""The exported model of a run: the published config at its sizes, and what exports a checkpoint.

In: a declaration and the published config at the sizes of the run. Out: a `RouteModel`. There is no version of its own
beside the published one: loading loses nothing, and what the sizes are transformers says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.jobs.job import Dimensions, JobInput, dimensions_of
from harness.names.codes import FindingCode
from harness.names.recipes import Rules
from harness.record.record import Finding
from harness.stages.litert_torch.export_hf.declaration import ExportHFModel
from harness.stages.litert_torch.export_hf.naming import fuses_gate, names_of
from harness.stages.litert_torch.export_hf.sources import frequencies_of, sources_of
from harness.weights.configs import published_config
from harness.weights.families import Sizes, interleaves_qkv, learns_positions, sizes_of, uses_alibi
from harness.weights.first_layers import first_layers_published
from harness.weights.key_names import names_text
from harness.weights.miniature import shrunk_hf_config
from harness.weights.parameters import ParameterSource
from harness.weights.published_names import Reading

_SLIDING = "sliding_attention"


def sized(model: ExportHFModel, *, miniature: bool, layers: int | None) -> ExportedModel:
    """layers: of the miniature, None for as many as it needs; without a miniature the first so many, None for all."""
    if miniature:
        return ExportedModel(model, shrunk_hf_config(model, layers))
    return ExportedModel(model, published_config(model) if layers is None else first_layers_published(model, layers))


def module_names(model: ExportHFModel, config: Any = None) -> Any:
    """Where the published model keeps what is compared: as declared, or read off it. config: else the published one."""
    if model.names is not None:
        return model.names
    from harness.audit.published import build_published

    return names_of(build_published(config if config is not None else published_config(model)), model.name)


@dataclass(frozen=True)
class ExportedModel:
    """A `RouteModel`. config: the published one, at the sizes of the run."""

    declared: ExportHFModel
    config: Any

    @property
    def text(self) -> Any:
        return self.config.get_text_config()

    @property
    def longest(self) -> int:
        return int(self.text.max_position_embeddings)

    @property
    def rotates(self) -> bool:
        return not (learns_positions(self.text) or uses_alibi(self.text))

    @property
    def rms_norms(self) -> bool:
        norms = {type(module).__name__ for module in self._built().modules() if "Norm" in type(module).__name__}
        return bool(norms) and all("RMSNorm" in name for name in norms)

    def dimensions(self) -> Dimensions:
        layers = self.sizes()
        heads = [(layer.heads, layer.kv_heads) for layer in layers]
        fused = fuses_gate(module_names(self.declared, self.config))
        return dimensions_of(layers[0]).model_copy(
            update={
                "layer_heads": heads if len(set(heads)) > 1 else [],
                "interleaved": interleaves_qkv(self.text),
                "fused_gate": fused,
            }
        )

    def sizes(self) -> list[Sizes]:
        return [sizes_of(self.text, block) for block in range(sizes_of(self.text).layers)]

    def row_widths(self) -> dict[str, int]:
        found = sizes_of(self.text)
        return {
            "the hidden size": found.hidden,
            "the MLP's size": found.intermediate,
            "the attention's size": found.heads * found.head_dim,
        }

    def tables(self) -> list[list[float]]:
        return frequencies_of(self._built(), self.text) if self.rotates else []

    def windows(self) -> list[int]:
        window, kinds = sizes_of(self.text).window, getattr(self.text, "layer_types", None)
        return [window] if window and (kinds is None or _SLIDING in kinds) else []

    def account_for_keys(
        self, folder: Path, dropped: Collection[str] = (), reading: Reading | None = None
    ) -> list[Finding]:
        """The exporter loads a checkpoint as the stage `hf` does: what that leaves out is left out of both."""
        if not dropped:
            return []
        what = (
            f"{len(dropped)} keys of the checkpoint have no place in the model that transformers builds of its "
            f"config.json and are left out: {names_text(sorted(dropped))}; the file is compared without them"
        )
        return [Finding(kind="weights", code=FindingCode.KEYS_LEFT_OUT, severity="warning", what=what)]

    def account_for_published_keys(self, network: Any) -> list[Finding]:
        return []

    def stops_loading(self, finding: Finding) -> bool:
        return False

    def parameters(self, folder: Path) -> list[ParameterSource]:
        return sources_of(self._built(), self.text, folder)

    def conversion_key(
        self, weights_sha256: str, prefill: Sequence[int], kv_cache_len: int, code: Mapping[str, Any]
    ) -> str:
        from harness.stages.litert_torch.export_hf.export import conversion_key

        return conversion_key(self.config, weights_sha256, prefill, kv_cache_len, code)

    def load(self, checkpoint: Path, kv_cache_len: int) -> Path:
        """The exporter reads the folder itself."""
        return checkpoint

    def write(self, network: Path, file: Path, prefill: Sequence[int], kv_cache_len: int) -> None:
        from harness.stages.litert_torch.export_hf.export import export_folder

        export_folder(network, file, prefill, kv_cache_len, self.declared.name)

    def recipe_rules(self, mode: str) -> Rules:
        raise UsageError(
            f"{self.declared.name}: {mode} is a mode of litert-torch's Generative API; give a name of "
            "ai-edge-quantizer's, such as dynamic_wi8_afp32, or a JSON file"
        )

    def converts(self, mode: str) -> bool:
        return False

    def write_quantised(
        self,
        network: Path,
        file: Path,
        prefill: Sequence[int],
        kv_cache_len: int,
        mode: str,
        inputs: Sequence[JobInput],
    ) -> None:
        raise ValueError(f"{mode} is a list of rules, which are applied to the float32 file")

    def _built(self) -> Any:
        from harness.audit.published import build_published

        return build_published(self.config)
