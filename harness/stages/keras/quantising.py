"""TensorFlow's converter with its own quantisation: which options each mode of `--quantize` gives it.

In: a loaded network, sizes and a mode. Out: a `.tflite`. Ranges of activations are found by the converter itself, on
what the Keras model is given and keeps in its KV cache when it runs the inputs of the run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.flatbuffer.signatures import DeviceShape
from harness.inputs.tokens import schedule_of
from harness.jobs.job import Dimensions, JobInput
from harness.names.recipes import STATIC, TF_FLOAT16, TF_FULL_INTEGER, TF_INT16_ACTIVATIONS, Rules
from harness.plain import one_line
from harness.stages.keras.convert import converted, converter_of, save
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.network import blocks_apart, empty_caches, run_step

_STEPS = 32  # of each signature that ranges are found on, at most: the converter runs each one by one


def to_quantised(
    model: KerasModel,
    network: Any,
    dims: Dimensions,
    file: Path,
    shape: DeviceShape,
    mode: str,
    inputs: Sequence[JobInput],
) -> None:
    """Write a file in a mode. Raises UsageError for what the converter refuses."""
    with tempfile.TemporaryDirectory(prefix="edge-parity-saved-") as folder:
        with blocks_apart(network) if mode in STATIC else nullcontext():
            saved = save(model, network, dims, Path(folder), shape.prefill, shape.kv_cache_len)
        converter = converter_of(Path(folder), saved)
        _set_mode(converter, mode)
        if mode in STATIC:
            steps = representative(model, network, dims, shape, inputs)
            converter.representative_dataset = lambda: iter(steps)
        try:
            made = converted(converter, model.name)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"--quantize {mode}: TensorFlow's converter refuses it for {model.name} ({one_line(error, 200)}); give "
                "another mode"
            ) from error
        file.write_bytes(made)


def _set_mode(converter: Any, mode: str) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == TF_FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    elif mode == TF_FULL_INTEGER:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    elif mode == TF_INT16_ACTIVATIONS:
        narrow = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [narrow]


def representative(
    model: KerasModel, network: Any, dims: Dimensions, shape: DeviceShape, inputs: Sequence[JobInput]
) -> list[tuple[str, dict[str, Any]]]:
    """(signature, what it is given) of the steps of the inputs as a device takes them, up to some of each signature."""
    taken: dict[str, int] = {}
    steps = []
    for item in inputs:
        for signature, given in _driven(model, network, dims, shape, item):
            taken[signature] = taken.get(signature, 0) + 1
            if taken[signature] <= _STEPS:
                steps.append((signature, given))
    return steps


def _driven(
    model: KerasModel, network: Any, dims: Dimensions, shape: DeviceShape, item: JobInput
) -> Iterator[tuple[str, dict[str, Any]]]:
    import tensorflow as tf

    caches: Mapping[str, Any] = empty_caches(dims.blocks, shape.kv_cache_len, dims.kv_heads, dims.head_dim)
    for step in schedule_of(item, shape):
        tokens = np.zeros((1, step.size), np.int32)
        tokens[0, : step.valid] = item.tokens[step.start : step.start + step.valid]
        given = {"tokens": tokens, "input_pos": np.arange(step.start, step.start + step.size, dtype=np.int32)}
        yield step.signature, {**given, **caches}
        made = run_step(
            model,
            network,
            tf.constant(tokens),
            tf.constant(given["input_pos"]),
            {name: tf.constant(values) for name, values in caches.items()},
        )
        caches = {name: np.asarray(made[name]) for name in caches}


def rules_of_mode(mode: str) -> Rules:
    """What a mode should come to, in the words of ai-edge-quantizer's rules: the file is held against them.

    A linear layer has a scale for each row, the embedding one for all: it is looked up and not multiplied.
    """
    return [
        {
            "regex": ".*",
            "operation": operation,
            "algorithm_key": "float_casting" if mode == TF_FLOAT16 else "min_max_uniform_quantize",
            "op_config": _config(mode, granularity),
        }
        for operation, granularity in (("FULLY_CONNECTED", "CHANNELWISE"), ("GATHER", "TENSORWISE"))
    ]


def _config(mode: str, granularity: str) -> dict[str, Any]:
    if mode == TF_FLOAT16:
        weight = {"num_bits": 16, "dtype": "FLOAT"}
        return {"weight_tensor_config": weight, "compute_precision": "FLOAT", "explicit_dequantize": True}
    weight = {"num_bits": 8, "dtype": "INT", "granularity": granularity, "symmetric": True}
    config: dict[str, Any] = {"weight_tensor_config": weight, "compute_precision": "INTEGER"}
    if mode in STATIC:
        bits = 8 if mode == TF_FULL_INTEGER else 16
        config["activation_tensor_config"] = {"num_bits": bits, "dtype": "INT", "symmetric": bits == 16}
    return config
