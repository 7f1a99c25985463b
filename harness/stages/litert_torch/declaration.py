"""What a model of this route is: a decoder re-authored in litert-torch's Generative API, declared.

In: nothing. Out: `GenerativeModel`. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.spec.model import Model


@dataclass(frozen=True)
class GenerativeModel(Model):
    """A decoder-only language model, declared. name, hf_id, published and the first three fields here are enough.

    config: factory of the re-authored model's litert-torch `ModelConfig`.
    model_class: the re-authored `torch.nn.Module`, called as `model_class(config, mask_cache_size)`.
    tensor_names: litert-torch `ModelLoader.TensorNames`, the map from HF to re-authored weight names.
    alignment: for a re-authored model that is not built of the Generative API's blocks, where its points are:
        point -> module path, see `declared_modules` in `align/modules.py`.
    load_weights: for a model that litert-torch's loader does not know, makes its state dict of the checkpoint's.
        It takes what it uses with `pop`; what is left over is a finding.
    recipes: names for `--quantize` -> what makes the recipe, called with the `ModelConfig` of the run: gives a
        `GenerativeQuantRecipe` of litert-torch, a `QuantConfig` with one, or a list of ai-edge-quantizer's rules.
    """

    route: ClassVar[str] = "harness.stages.litert_torch.route:ROUTE"

    config: Callable[[], Any]
    model_class: Callable[..., Any]
    tensor_names: Any
    alignment: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    load_weights: Callable[[dict[str, Any]], dict[str, Any]] | None = field(default=None, kw_only=True)
    recipes: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict, kw_only=True)
