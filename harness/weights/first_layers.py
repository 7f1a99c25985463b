"""The first layers of a model at full width: its own sizes, embedding, final norm and head, and fewer blocks.

In: a model and how many layers; a checkpoint folder, or a seed for random weights. Out: the config, and a folder in
Hugging Face format. What width does to float32 shows here at a fraction of the cost of the whole model.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.spec.model import Model
from harness.weights.configs import hf_config, published_config
from harness.weights.families import sizes_of
from harness.weights.files import WEIGHTS_FILE, StoredTensor, stored_tensors
from harness.weights.random_weights import write_seeded
from harness.weights.rewriting import tokenizer_files, write_tensors
from harness.weights.small_tokenizer import write_small_tokenizer

# Part of the cache key: raise it when what is written below changes.
RULE = 1
_NUMBERED = re.compile(r"(?:^|\.)(\w+)\.(\d+)\.")


def with_layers(config: Any, kept: Iterable[int]) -> Any:
    """A copy of a Hugging Face config with these layers alone. What it lists by layer is cut to them as well."""
    kept, before = list(kept), sizes_of(config).layers
    shorter = copy.deepcopy(config)
    for name, value in vars(config).items():  # the kinds of attention, say
        if isinstance(value, list) and len(value) == before:
            setattr(shorter, name, [value[layer] for layer in kept])
    shorter.num_hidden_layers = len(kept)
    return shorter


def first_layers_published(model: Model, layers: int) -> Any:
    """The published config with its first layers alone. Raises UsageError for more than there are."""
    return _shortened(published_config(model), layers, model.name)


def _shortened(config: Any, layers: int, what: str) -> Any:
    check_layers(layers, sizes_of(config).layers, what)
    return with_layers(config, range(layers))


def check_layers(layers: int, total: int, what: str) -> None:
    """Raises UsageError for more layers than there are."""
    if layers > total:
        raise UsageError(f"--layers {layers}: {what} has {total} layers; give at most as many")


def write_first_layers(source: Path, layers: int, folder: Path) -> None:
    """Write the first layers of a checkpoint into an existing folder, every number as the source stores it.

    Tensors of no layer (embedding, final norm, head, and whatever else the files hold) stay, and so do the files of
    the tokenizer. Raises UsageError for more layers than the checkpoint has.
    """
    config = hf_config(source)
    _shortened(config, layers, str(source)).save_pretrained(folder)
    tensors = stored_tensors(source)
    container = _container(tensors, sizes_of(config).layers)
    kept = {name: tensor for name, tensor in tensors.items() if _layer_of(name, container) < layers}
    write_tensors(kept, folder / WEIGHTS_FILE)
    for file in tokenizer_files(source):
        shutil.copyfile(file, folder / file.name)


def _container(tensors: dict[str, StoredTensor], layers: int) -> str:
    """What the list of blocks is called in the names of tensors, "layers" say: the one with most numbers."""
    numbers: dict[str, set[int]] = {}
    for name in tensors:
        for part, number in _NUMBERED.findall(name):
            numbers.setdefault(part, set()).add(int(number))
    return max(numbers, key=lambda part: (len(numbers[part]), part), default="")


def _layer_of(name: str, container: str) -> int:
    """The layer that a tensor belongs to; -1 for one of no layer."""
    return next((int(number) for part, number in _NUMBERED.findall(name) if part == container), -1)


def write_random_layers(model: Model, seed: int, layers: int, folder: Path) -> None:
    """Write config.json and seeded random weights of the published shape (float32) into an existing folder."""
    write_seeded(first_layers_published(model, layers), seed, folder)
    if model.small_tokenizer:
        write_small_tokenizer(folder)


def config_text(config: Any) -> Any:
    """What of a Hugging Face config a cache key rests on, as JSON."""
    return json.loads(config.to_json_string(use_diff=False))
