"""The declared `ModelConfig`, and the model that is built of one.

In: a model's declaration. Out: config objects, fresh each time, and networks without weights.
"""

from __future__ import annotations

import copy
from typing import Any

from harness.errors import UsageError
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.weights.configs import first_line, made_by
from harness.weights.first_layers import check_layers


def full_reauthored_config(model: GenerativeModel) -> Any:
    """The example's own `ModelConfig`, fresh. Raises UsageError when the spec's factory gives none."""
    return made_by(model, "config", "num_layers", "a litert-torch ModelConfig")


def first_layers_reauthored(model: GenerativeModel, layers: int) -> Any:
    """The re-authored `ModelConfig` with its first layers alone. Raises UsageError for more than there are."""
    config = full_reauthored_config(model)
    check_layers(layers, int(config.num_layers), f"the re-authored {model.name}")
    config = copy.deepcopy(config)
    if isinstance(config.block_configs, (list, tuple)):
        config.block_configs = list(config.block_configs[:layers])
    if config.attention_patterns is not None:
        config.attention_patterns = config.attention_patterns[:layers]
    config.num_layers = layers
    return config


def built_model(model: GenerativeModel, config: Any, mask_cache_size: int = 0) -> Any:
    """The re-authored model as its declaration says. Raises UsageError where that cannot be built."""
    try:
        return model.model_class(config, mask_cache_size)
    except Exception as error:
        raise UsageError(
            f"{model.name}: 'model_class' cannot be built as model_class(config, mask_cache_size): "
            f"{type(error).__name__}: {first_line(error)}; fix the model's spec file"
        ) from error
