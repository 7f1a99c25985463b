"""The litert-torch config that a run uses: the example's own, shrunk or shortened, with composites or without.

In: a model's declaration and what of it is wanted. Out: a `ModelConfig`, fresh each time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.full_config import first_layers_reauthored, full_reauthored_config
from harness.stages.litert_torch.miniature import shrink


def reauthored_config(model: GenerativeModel, *, miniature: bool, layers: int | None = None, hlfb: bool = True) -> Any:
    """The litert-torch `ModelConfig` that a run uses, fresh: the example's own, or shrunk to the miniature's sizes.

    layers: of the miniature, None for as many as it needs. Without a miniature the first so many, None for all.
    hlfb: False turns every composite off, of attention and of all norms, whatever the example says.
    """
    if miniature:
        config = shrink(model, layers)[1]
    elif layers is not None:
        config = first_layers_reauthored(model, layers)
    else:
        config = full_reauthored_config(model)
    return config if hlfb else without_composites(config)


def without_composites(config: Any) -> Any:
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        changes = {
            entry.name: False if entry.name == "enable_hlfb" else without_composites(getattr(config, entry.name))
            for entry in dataclasses.fields(config)
        }
        return dataclasses.replace(config, **changes)
    if isinstance(config, (list, tuple)):
        return type(config)(without_composites(item) for item in config)
    return config
