"""The Keras model of a run: its sizes, and what loads and converts it.

In: a declaration and the published config at the sizes of the run. Out: a `RouteModel`. Until it is loaded, nothing
here imports Keras.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.flatbuffer.signatures import DeviceShape
from harness.jobs.job import Dimensions, JobInput, dimensions_of
from harness.names.codes import FindingCode
from harness.names.recipes import TF_RECIPES, Rules
from harness.record.record import Finding
from harness.stages.keras.declaration import TASK, KerasModel
from harness.stages.keras.sources import gpt2_sources
from harness.weights.configs import published_config
from harness.weights.families import Sizes, sizes_of
from harness.weights.files import shape_text, stored_tensors
from harness.weights.first_layers import first_layers_published
from harness.weights.key_names import names_text
from harness.weights.kinds import COMPUTED
from harness.weights.miniature import shrunk_hf_config
from harness.weights.parameters import ParameterSource
from harness.weights.published_names import Reading

LM_HEAD = "lm_head.weight"


def own_sizes(config: Any, block: int = 0) -> Sizes:
    """What KerasHub's loader makes of a published config: it takes the MLP to be four times as wide as the model."""
    found = sizes_of(config, block)
    return dataclasses.replace(
        found, intermediate=4 * found.hidden, kv_heads=found.heads, head_dim=found.hidden // found.heads
    )


def sized(model: KerasModel, *, miniature: bool, layers: int | None) -> KerasAtSizes:
    """layers: of the miniature, None for as many as it needs; without a miniature the first so many, None for all."""
    if miniature:
        return KerasAtSizes(model, shrunk_hf_config(model, layers))
    return KerasAtSizes(model, published_config(model) if layers is None else first_layers_published(model, layers))


@dataclass(frozen=True)
class KerasAtSizes:
    """A `RouteModel`. config: the published one, at the sizes of the run."""

    declared: KerasModel
    config: Any
    rotates: bool = False
    rms_norms: bool = False

    @property
    def longest(self) -> int:
        return int(self.config.max_position_embeddings)

    def dimensions(self) -> Dimensions:
        return dimensions_of(own_sizes(self.config))

    def sizes(self) -> list[Sizes]:
        return [own_sizes(self.config, block) for block in range(own_sizes(self.config).layers)]

    def row_widths(self) -> dict[str, int]:
        found = own_sizes(self.config)
        return {"the hidden size": found.hidden, "the MLP's size": found.intermediate}

    def tables(self) -> list[list[float]]:
        return []

    def windows(self) -> list[int]:
        return []

    def account_for_keys(
        self, folder: Path, dropped: Collection[str] = (), reading: Reading | None = None
    ) -> list[Finding]:
        """Every key and every variable, by the sources: neither is left without the other."""
        shapes = {
            name: tensor.shape for name, tensor in (reading.tensors if reading else stored_tensors(folder)).items()
        }
        return self._account(shapes, dropped)

    def account_for_published_keys(self, network: Any) -> list[Finding]:
        return self._account({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, ())

    def _account(self, shapes: Mapping[str, tuple[int, ...]], dropped: Collection[str]) -> list[Finding]:
        if self.declared.task != TASK:
            what = f"the keys of the checkpoint are not accounted for: {self.declared.task} is not known here"
            return [Finding(kind="weights", code=FindingCode.PARAMETERS_NOT_AUDITED, severity="warning", what=what)]
        sources = self._sources()
        asked = {key for source in sources for key in source.keys}
        left = sorted(
            key for key in shapes.keys() - asked if key != LM_HEAD and key not in dropped and not key.endswith(COMPUTED)
        )
        found = [
            _error(FindingCode.KEY_LACKING, f"KerasHub's loader asks for {key}, which the checkpoint lacks", key)
            for key in sorted(asked - shapes.keys())
        ]
        found += [
            _error(
                FindingCode.KEY_NOT_LOADED, f"{key} of the checkpoint is loaded nowhere: KerasHub runs without it", key
            )
            for key in left
        ]
        found += [*self._shapes(sources, shapes), *self._head(shapes)]
        if dropped:
            what = (
                f"{len(dropped)} keys of the checkpoint have no place in the model that transformers builds of its "
                f"config.json and are left out: {names_text(sorted(dropped))}; the Keras model is compared without them"
            )
            found.append(Finding(kind="weights", code=FindingCode.KEYS_LEFT_OUT, severity="warning", what=what))
        return found

    def _shapes(self, sources: Sequence[ParameterSource], shapes: Mapping[str, tuple[int, ...]]) -> list[Finding]:
        """The MLP's width is the one size that KerasHub takes from nowhere."""
        wanted = own_sizes(self.config).intermediate
        return [
            _error(
                FindingCode.SHAPE_DIFFERS,
                f"{source.keys[0]} has shape {shape_text(shapes[source.keys[0]])}, and KerasHub builds an MLP of "
                f"{wanted} (four times the hidden size) whatever the config's n_inner says: it cannot load",
                source.keys[0],
                source.parameter,
            )
            for source in sources
            if source.parameter.endswith("feedforward_intermediate_dense/kernel")
            and source.keys[0] in shapes
            and shapes[source.keys[0]][-1] != wanted
        ]

    def _head(self, shapes: Mapping[str, tuple[int, ...]]) -> list[Finding]:
        if getattr(self.config, "tie_word_embeddings", True) or LM_HEAD not in shapes:
            return []
        what = f"{LM_HEAD} of the checkpoint is dropped: KerasHub's {self.declared.task} ties it to the embedding"
        return [_error(FindingCode.HEAD_DROPPED, what, LM_HEAD)]

    def _sources(self) -> list[ParameterSource]:
        return gpt2_sources(self.declared.names, own_sizes(self.config)) if self.declared.task == TASK else []

    def stops_loading(self, finding: Finding) -> bool:
        return finding.code in (FindingCode.KEY_LACKING, FindingCode.SHAPE_DIFFERS)

    def parameters(self, folder: Path) -> list[ParameterSource]:
        stored = stored_tensors(folder)
        return [source for source in self._sources() if all(key in stored for key in source.keys)]

    def conversion_key(
        self, weights_sha256: str, prefill: Sequence[int], kv_cache_len: int, code: Mapping[str, Any]
    ) -> str:
        from harness.stages.keras.keys import conversion_key

        return conversion_key(self.declared, self.config, weights_sha256, prefill, kv_cache_len, code)

    def load(self, checkpoint: Path, kv_cache_len: int) -> Any:
        from harness.stages.keras.network import load_keras

        return load_keras(self.declared, checkpoint)

    def write(self, network: Any, file: Path, prefill: Sequence[int], kv_cache_len: int) -> None:
        from harness.stages.keras.convert import to_flatbuffer

        to_flatbuffer(self.declared, network, self.dimensions(), file, prefill, kv_cache_len)

    def recipe_rules(self, mode: str) -> Rules:
        from harness.stages.keras.quantising import rules_of_mode

        return rules_of_mode(mode)

    def converts(self, mode: str) -> bool:
        return mode in TF_RECIPES

    def write_quantised(
        self,
        network: Any,
        file: Path,
        prefill: Sequence[int],
        kv_cache_len: int,
        mode: str,
        inputs: Sequence[JobInput],
    ) -> None:
        from harness.stages.keras.quantising import to_quantised

        shape = DeviceShape(list(prefill), kv_cache_len)
        to_quantised(self.declared, network, self.dimensions(), file, shape, mode, inputs)


def _error(code: FindingCode, what: str, key: str = "", parameter: str = "") -> Finding:
    return Finding(kind="weights", code=code, severity="error", what=what, key=key, parameter=parameter)
