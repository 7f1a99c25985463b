"""What transformers makes of the names in a checkpoint folder, without loading a weight.

In: a folder. Out: a `Reading`: the config of the language model in it, and its tensors by the names that this model
has for them. transformers' own loader decides, on tensors without memory: which names it changes (a prefix that lacks
or is there twice, old names), what it leaves out, and what it would draw at random. The last is a UsageError.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.weights.config_values import unknown_word
from harness.weights.configs import (
    CONFIG_FILE,
    first_line,
    hf_config,
    quiet_transformers,
    raw_config,
    without_initial_weights,
)
from harness.weights.files import StoredTensor, shape_text, stored_tensors
from harness.weights.key_names import names_text
from harness.weights.kinds import COMPUTED, refuse_adapter, refuse_by_headers

_CAUSAL = "give the config.json of a causal language model"
_ONE_MODEL = "use the weights and the config of one model"


@dataclass(frozen=True)
class Reading:
    """config: of the language model. tensors: by the model's name for them; those of files as they are.

    dropped: keys that transformers leaves out, but for tables that every implementation computes.
    inside: kind of the multimodal model that the language model was found in; empty where it is the whole.
    """

    config: Any
    tensors: Mapping[str, StoredTensor]
    dropped: tuple[str, ...] = ()
    inside: str = ""

    @property
    def as_stored(self) -> bool:
        """Whether the folder can be loaded as it is, by its own names."""
        return not self.inside and all(name == tensor.name for name, tensor in self.tensors.items())


@dataclass(frozen=True)
class _Account:
    """names: key -> the model's name. shapes: of the model. missing: what would be drawn at random."""

    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    missing: tuple[str, ...]
    unexpected: frozenset[str]
    network: Any


def read_folder(folder: Path) -> Reading:
    """Read a folder from its JSON files and headers. Raises UsageError for whatever cannot be compared."""
    refuse_adapter(folder)
    raw, tensors = raw_config(folder), stored_tensors(folder)
    refuse_by_headers(folder, raw, tensors)
    config = hf_config(folder)
    if _text_config(folder, config) is not config:
        return _inside(folder, config, tensors)
    account = _account(folder, config, _class_of(folder, config, "CausalLM"), tensors)
    return _checked(folder, config, account, tensors)


def _checked(
    folder: Path, config: Any, account: _Account, tensors: Mapping[str, StoredTensor], inside: str = ""
) -> Reading:
    """Raises UsageError for a shape that does not fit and for a parameter without a value."""
    named = {account.names[key]: tensor for key, tensor in tensors.items() if account.names[key] in account.shapes}
    if not named:
        example = next(iter(sorted(tensors)), "nothing")
        wrapper = example.partition(".")[0] + "."
        if any(name.removeprefix(wrapper) in account.shapes for name in tensors):
            raise UsageError(
                f"{folder}: the names of the weights begin with '{wrapper}', which transformers does not take off; "
                "save the model that is inside ('module.' and '_orig_mod.' come from wrappers of torch)"
            )
        raise UsageError(
            f"{folder}: no tensor of the weights ({example}, ...) belongs to the model in {CONFIG_FILE}; {_ONE_MODEL}"
        )
    wrong = [name for name in sorted(named) if named[name].shape != account.shapes[name]]
    if wrong:
        first, more = named[wrong[0]], f" (and {len(wrong) - 1} more do not fit)" if len(wrong) > 1 else ""
        raise UsageError(
            f"{first.file}: {first.name} has shape {shape_text(first.shape)}, but {CONFIG_FILE} asks for "
            f"{shape_text(account.shapes[wrong[0]])}{more}; {_ONE_MODEL}"
        )
    dropped = tuple(key for key in tensors if account.names[key] in account.unexpected and not key.endswith(COMPUTED))
    if account.missing:
        raise UsageError(f"{folder}: the weights lack {names_text(account.missing)}{_instead(account, dropped)}")
    return Reading(config, named, () if inside else tuple(sorted(dropped)), inside)


def _instead(account: _Account, dropped: tuple[str, ...]) -> str:
    """What is known of parameters that have no value."""
    head = all(name.startswith("lm_head.") for name in account.missing)
    if head:
        why = "transformers would draw it at random; complete the checkpoint, or let config.json say "
        return f", and config.json does not tie it to the embedding: {why}'tie_word_embeddings': true if the model does"
    names = f", and hold {names_text(dropped)}, which it has no place for" if dropped else ""
    return f"{names}: transformers would draw them at random; complete the checkpoint, or convert it to its names"


def _account(folder: Path, config: Any, kind: Any, tensors: Mapping[str, StoredTensor]) -> _Account:
    import torch

    with quiet_transformers(), without_initial_weights():
        state = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
        try:
            network, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=torch.float32,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:
            unknown = unknown_word(config.to_dict(), error)
            if unknown:
                raise UsageError(f"{folder / CONFIG_FILE}: {unknown}; correct it, or download it again") from None
            why = f"describes no model that transformers can build ({first_line(error)})"
            raise UsageError(f"{folder / CONFIG_FILE} {why}; {_CAUSAL}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    names = _names(folder, network, tensors, shapes)
    return _Account(names, shapes, tuple(info["missing_keys"]), frozenset(info["unexpected_keys"]), network)


def _names(folder: Path, network: Any, keys: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, str]:
    """Key -> the model's name for it, by the functions that transformers' loader calls."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(network)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix, state = network.base_model_prefix, network.state_dict()
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for key in keys:
        name, converted = rename_source_key(key, renamings, converters, prefix, state)
        if name not in shapes and key in shapes:
            name, converted = rename_source_key(key, [], [], prefix, state)
        if converted is not None and name in shapes:
            raise UsageError(
                f"{folder}: transformers makes {name} of {key} by computing; load it with transformers and "
                "save_pretrained it, and give that folder"
            )
        if name in shapes and taken.setdefault(name, key) != key:
            raise UsageError(f"{folder}: {taken[name]} and {key} are both taken for {name}; keep one of them")
        names[key] = name
    return names


def _inside(folder: Path, config: Any, tensors: Mapping[str, StoredTensor]) -> Reading:
    """The language model inside a multimodal one, where transformers has it as a model of its own."""
    text = copy.deepcopy(_text_config(folder, config))
    kind = _class_of(folder, text, "CausalLM")
    whole = _account(folder, config, _class_of(folder, config, "CausalLM", "ImageTextToText"), tensors)
    alone = _account(folder, text, kind, {})
    own = _names_inside(alone.network, whole.shapes)
    if not own:
        raise UsageError(
            f"{folder} is multimodal ({config.model_type}), and transformers' {type(whole.network).__name__} has no "
            f"language model inside that is a {type(alone.network).__name__}; give a checkpoint of the language model"
        )
    found = {own[name]: tensors[key] for key, name in whole.names.items() if name in own}
    head = "lm_head.weight"
    if head in alone.missing and head not in found and head not in whole.missing:
        text.tie_word_embeddings = True  # only the whole model's config says so
    text.dtype = text.dtype or config.dtype
    return _checked(folder, text, _account(folder, text, kind, found), found, config.model_type)


def _names_inside(alone: Any, whole: Mapping[str, Any]) -> dict[str, str]:
    """Name in the whole model -> name in the language model by itself; empty where it is not there as a whole."""
    base = f"{alone.base_model_prefix}."
    names = list(alone.state_dict())
    inner = [name.removeprefix(base) for name in names if name.startswith(base)]
    places = {name.removesuffix(inner[0]) for name in whole if name.endswith(f".{inner[0]}")} if inner else set()
    place = next((place for place in sorted(places) if all(f"{place}{name}" in whole for name in inner)), None)
    if place is None:
        return {}
    own = {f"{place}{name}": f"{base}{name}" for name in inner}
    for name in names:
        if not name.startswith(base):
            own |= {found: name for found in whole if found == name or found.endswith(f".{name}")}
    return own


def _text_config(folder: Path, config: Any) -> Any:
    """The config of the language model in a config: itself, or a part. Raises UsageError where the part is none."""
    try:
        text = config.get_text_config()
    except Exception as error:
        raise UsageError(f"{folder / CONFIG_FILE} has no one language model ({first_line(error)}); {_CAUSAL}") from None
    if not isinstance(getattr(text, "model_type", None), str):
        raise UsageError(f"{folder / CONFIG_FILE}: the config of its language model names no 'model_type'; {_CAUSAL}")
    return text


def _class_of(folder: Path, config: Any, *purposes: str) -> Any:
    """The class by which transformers loads a config for the first of these purposes."""
    import transformers

    for purpose in purposes:
        found = getattr(transformers, f"AutoModelFor{purpose}")._model_mapping.get(type(config), None)
        if found is not None:
            return found[0] if isinstance(found, tuple) else found
    raise UsageError(
        f"{folder / CONFIG_FILE}: transformers has no causal language model of type '{config.model_type}'; {_CAUSAL}"
    )
