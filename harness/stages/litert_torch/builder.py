"""What an example's own builder does with a checkpoint that lacks a key.

In: a model's declaration and the published model without memory. Out: findings of kind "weights".

Edge Parity loads with the declared names and accounts for each key itself. A user of the example calls its builder,
which stands beside the config's factory. A right one raises. The model is built at full size on torch's meta device and
the checkpoint's tensors are on it too, so that this costs milliseconds and no memory.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.weights.configs import without_initial_weights

_TAKES = ("checkpoint_path", "custom_loader")
_REMEDY = "build with model_builder.build_decoder_only_model and one set of names, where a lacking key raises"


def audit_builder(model: GenerativeModel, network: Any) -> list[Finding]:
    """A warning for a builder that says nothing of a lacking key; empty for one that raises, and where there is none.

    network: what `build_published` makes of the model's published config.
    """
    builder, key = builder_of(model.config), _last_matrix(model)
    stored = dict(network.state_dict())
    if builder is None or stored.pop(key, None) is None:
        return []
    code = _answer(builder, stored)
    if code is None:
        return []
    what = f"{builder.__name__} {_ANSWERS[code]} a checkpoint that lacks {key}, and says nothing; {_REMEDY}"
    return [Finding(kind="weights", code=code, severity="warning", what=what, key=key)]


def builder_of(factory: Any) -> Callable[..., Any] | None:
    """The function beside a config's factory that loads a checkpoint into a model of that config.

    As in litert-torch's examples: `build...(checkpoint_path, custom_loader=...)`, which calls the factory. None without
    exactly one.
    """
    if not inspect.isfunction(factory) or factory.__module__ not in sys.modules:
        return None
    found = [
        function
        for name, function in vars(sys.modules[factory.__module__]).items()
        if name.startswith("build") and inspect.isfunction(function) and _builds(function, factory)
    ]
    return found[0] if len(found) == 1 else None


def _builds(function: Callable[..., Any], factory: Any) -> bool:
    code = function.__code__
    beside = function.__module__ == factory.__module__
    return beside and factory.__name__ in code.co_names and set(_TAKES) <= set(code.co_varnames[: code.co_argcount])


def _last_matrix(model: GenerativeModel) -> str:
    """The checkpoint's name of the last block's down projection; empty where the names tell none."""
    pattern = getattr(model.tensor_names, "ff_down_proj", None)
    return f"{pattern.format(model.config().num_layers - 1)}.weight" if pattern else ""


_ANSWERS = {
    FindingCode.BUILDER_GIVES_NONE: "returns None for",
    FindingCode.BUILDER_GIVES_MODEL: "builds a model from",
}


def _answer(builder: Callable[..., Any], stored: dict[str, Any]) -> FindingCode | None:
    """What a builder does with tensors by name; None for one that raises."""
    import torch

    try:
        with torch.device("meta"), without_initial_weights():
            built = builder("", custom_loader=lambda _: dict(stored))  # loaders take tensors out of what they get
    except Exception:
        return None
    return FindingCode.BUILDER_GIVES_NONE if built is None else FindingCode.BUILDER_GIVES_MODEL
