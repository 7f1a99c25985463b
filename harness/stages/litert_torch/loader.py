"""What litert-torch's loader, or the model's own, makes of a checkpoint's tensors.

In: a declaration, a config and tensors by Hugging Face name, with or without memory. Out: `Taken`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.stages.litert_torch.declaration import GenerativeModel

if TYPE_CHECKING:
    import torch


@dataclass
class Taken:
    """What the loader did: `converted` by re-authored name, keys it asked for in vain, keys it left."""

    converted: dict[str, torch.Tensor] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failure: str = ""


class _Receiver:
    """Stands in for the model, so that litert-torch's loader hands over what it would load."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.converted: dict[str, torch.Tensor] = {}

    def load_state_dict(self, converted: dict[str, torch.Tensor], strict: bool = True) -> None:
        self.converted = converted


class _Ledger(dict[str, "torch.Tensor"]):
    """A state dict that goes on after a key it lacks, so that one pass finds them all.

    The stand-in is complex: concatenation with real tensors stays complex, which marks what was made from it.
    """

    lacking: list[str]

    def pop(self, key: str, *default: Any) -> Any:
        import torch

        if key in self or default:
            return super().pop(key, *default)
        self.lacking.append(key)
        return torch.empty(0, dtype=torch.complex64)


def run_loader(model: GenerativeModel, config: Any, state: Mapping[str, torch.Tensor]) -> Taken:
    """Hand a state dict to the loader. What it raises is `failure`, not an error."""
    from litert_torch.generative.utilities.loader import ModelLoader

    ledger, receiver = _Ledger(state), _Receiver(config)
    ledger.lacking = []
    load = model.load_weights
    loader: Any = ModelLoader("", model.tensor_names, lambda _: ledger)
    failure = ""
    try:
        if load is not None:
            receiver.load_state_dict(load(ledger))
        else:
            loader.load(receiver, strict=False)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    return Taken(receiver.converted, ledger.lacking, sorted(ledger), failure)


def storage(tensor: torch.Tensor) -> int:
    """Which storage a tensor has; storages have identity on torch's meta device too."""
    return int(tensor.untyped_storage()._cdata)
