"""Loading the re-authored model with a checkpoint's weights.

In: a checkpoint folder and a re-authored model. Out: the loaded network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.full_config import built_model
from harness.stages.litert_torch.loader import run_loader, storage
from harness.weights.configs import without_initial_weights
from harness.weights.files import shape_text, weight_files

if TYPE_CHECKING:
    import torch


def load_reauthored(model: GenerativeModel, checkpoint_folder: Path, model_config: Any, mask_cache_size: int) -> Any:
    """The re-authored `torch.nn.Module` with the checkpoint's weights in float32, in eval mode.

    Equal to litert-torch's own `build_decoder_only_model` bit for bit, at about half its peak of memory: the weights
    stay mapped from the file where they need no change. It is lenient where `account_for_keys` reports.
    Raises UsageError for a key that the loader needs and the checkpoint lacks, and for a shape that does not fit.
    """
    import torch

    taken = run_loader(model, model_config, _mapped(checkpoint_folder))
    if taken.failure or taken.lacking:
        what = f"lacks {taken.lacking[0]}" if taken.lacking else f"cannot be loaded ({taken.failure})"
        raise UsageError(
            f"{checkpoint_folder} {what}, which {model.name}'s tensor_names ask for; "
            "complete the checkpoint or fix tensor_names in the spec"
        )
    values = {
        name: value.to(torch.float32) if value.is_floating_point() else value for name, value in taken.converted.items()
    }
    network = _assembled(model, model_config, mask_cache_size, values, checkpoint_folder)
    if network is None:
        network = built_model(model, model_config, mask_cache_size)
        _check_shapes(checkpoint_folder, network, values)
        network.load_state_dict(values, strict=False)
    return network.eval()


def _assembled(
    model: GenerativeModel, config: Any, mask_cache_size: int, values: dict[str, torch.Tensor], folder: Path
) -> Any | None:
    """The model around the given tensors, without a second copy of them; None where that cannot be done faithfully."""
    import torch

    with torch.device("meta"), without_initial_weights():
        network = built_model(model, config)
    ties = _ties(network)
    # One matrix with two sources, or parameters that keep what they were built with: only a real model has that.
    if any(name in values and other in values for name, other in ties.items()) or not hasattr(
        network, "build_mask_cache"
    ):
        return None
    _check_shapes(folder, network, values)
    network.load_state_dict(values, strict=False, assign=True)
    for name, other in ties.items():
        if name in values or other in values:
            given, taking = (name, other) if name in values else (other, name)
            owner, _, attribute = taking.rpartition(".")
            # Two Parameters over one storage, as litert-torch's own builder leaves them.
            data = network.get_parameter(given).data
            setattr(network.get_submodule(owner), attribute, torch.nn.Parameter(data))
    if any(_meta_tensors(network)):
        return None
    network.build_mask_cache(mask_cache_size)
    return network


def _ties(network: Any) -> dict[str, str]:
    """Parameter -> the earlier one whose storage it shares."""
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        other = first.setdefault(storage(parameter), name)
        if other != name:
            ties[name] = other
    return ties


def _meta_tensors(network: Any) -> list[str]:
    """Tensors still without memory: parameters, buffers and plain attributes."""
    import torch

    found = []
    for path, module in network.named_modules():
        held = {**module._parameters, **module._buffers, **vars(module)}
        found += [f"{path}.{name}" for name, value in held.items() if isinstance(value, torch.Tensor) and value.is_meta]
    return found


def _check_shapes(folder: Path, network: Any, values: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in network.state_dict().items():
        if name in values and values[name].shape != parameter.shape:
            given, wanted = shape_text(tuple(values[name].shape)), shape_text(tuple(parameter.shape))
            raise UsageError(
                f"{folder}: {name} has shape {given} in the checkpoint and {wanted} in the re-authored model; "
                "use the weights of this model, or fix the config in its spec"
            )


def _mapped(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint, mapped from its files rather than read."""
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict: it cannot be iterated
                tensors[name] = opened.get_tensor(name)
    return tensors
