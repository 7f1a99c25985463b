"""A KerasHub language model with a checkpoint's weights, and one step of it with a KV cache.

In: a declaration and a folder. Out: the `CausalLM`, and `run_step`, which the stage runs and the converter takes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.names.taps import LOGITS
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.imports import import_keras_hub
from harness.system.attributes import set_within

Array = np.ndarray[Any, Any]
CACHE = "kv_cache_"


def load_keras(model: KerasModel, folder: Path) -> Any:
    """The model in float32. Raises UsageError for a class that KerasHub lacks, and for what cannot be loaded."""
    hub = import_keras_hub()
    if model.load is not None:
        return model.load(folder)
    task = getattr(hub.models, model.task, None)
    if task is None:
        raise UsageError(f"{model.name}: keras_hub.models has no '{model.task}'; fix 'task' in the model's spec file")
    try:
        return task.from_preset(str(folder), preprocessor=None, dtype="float32")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{folder}: KerasHub cannot load it as {model.task} ({type(error).__name__}: {reason}); "
            "complete the checkpoint, or give 'load' in the model's spec file"
        ) from error


class CacheOfBlocks:
    """A KV cache as `call_with_cache` takes it apart, `cache[:, block, ...]`: one tensor would have six axes, and
    TFLite's slices take five."""

    def __init__(self, blocks: Sequence[Any]) -> None:
        self.blocks = blocks

    def __getitem__(self, place: tuple[Any, ...]) -> Any:
        block = self.blocks[place[1]]
        return block[(place[0], *place[2:])] if len(place) > 2 and place[2] is not Ellipsis else block


class _OpsApart:
    """`keras.ops` for a `call_with_cache` that should not join the caches of its blocks."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def stack(self, values: Sequence[Any], axis: int = 0) -> Any:
        return CacheOfBlocks(values) if axis == 1 and len(values[0].shape) == 5 else self._ops.stack(values, axis=axis)


@contextmanager
def blocks_apart(network: Any) -> Iterator[None]:
    """Within it `call_with_cache` gives a `CacheOfBlocks`, and no tensor of six axes: TensorFlow's converter finds the
    ranges of numbers by running the model, on slices that take five."""
    module = importlib.import_module(type(network).__module__)
    if not hasattr(module, "ops"):  # a class of somebody's own, which joins them in its own way
        yield
        return
    with set_within(module, "ops", _OpsApart(module.ops)):
        yield


def run_step(model: KerasModel, network: Any, tokens: Any, input_pos: Any, caches: Mapping[str, Any]) -> dict[str, Any]:
    """One step, by the names that a language model's flatbuffer has.

    tokens: `[1, time]`, int32. input_pos: `[time]`, of which the first counts. caches: `kv_cache_k_0` and so on,
    `[1, positions, heads, head_dim]` each. Returns the new caches by the same names, and the logits.
    """
    import tensorflow as tf

    blocks = len(caches) // 2
    cache = CacheOfBlocks(
        [tf.stack([caches[f"{CACHE}k_{block}"], caches[f"{CACHE}v_{block}"]], axis=1) for block in range(blocks)]
    )
    if model.step is not None:
        logits, after = model.step(network, tokens, cache, input_pos[0])
    else:
        logits, _, after = network.call_with_cache(tokens, cache, input_pos[0])
    made = {
        f"{CACHE}{side}_{block}": after[:, block, at] for block in range(blocks) for at, side in enumerate(("k", "v"))
    }
    return {LOGITS: logits, **made}


def empty_caches(blocks: int, positions: int, heads: int, head_dim: int) -> dict[str, Array]:
    """Zeros, by the names of a flatbuffer."""
    shape = (1, positions, heads, head_dim)
    return {f"{CACHE}{side}_{block}": np.zeros(shape, np.float32) for block in range(blocks) for side in ("k", "v")}


def variables_of(network: Any) -> dict[str, Array]:
    """Path -> values, of all that is trained; the states of random generators are not."""
    return {v.path: v.numpy() for v in network.variables if not v.path.endswith("seed_generator_state")}
