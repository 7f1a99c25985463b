"""Convert a Keras model to a flatbuffer with prefill and decode signatures, by TensorFlow's converter.

In: a loaded network and sizes. Out: a `.tflite`, float32. The published guide hands the Keras model itself to the
converter as the object that owns the variables; a Keras 3 model is none to TensorFlow, and the file then has no
weights. Here a `tf.Module` holds each of them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.flatbuffer.signatures import DECODE, PREFILL
from harness.jobs.job import Dimensions
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.network import CACHE, run_step

_SHOWN = 4


def to_flatbuffer(
    model: KerasModel, network: Any, dims: Dimensions, file: Path, prefill: Sequence[int], kv_cache_len: int
) -> None:
    """Write a float32 file. Raises UsageError where TFLite has no operator for what the model computes."""
    with tempfile.TemporaryDirectory(prefix="edge-parity-saved-") as folder:
        saved = save(model, network, dims, Path(folder), prefill, kv_cache_len)
        converter = converter_of(Path(folder), saved)
        file.write_bytes(converted(converter, model.name))


def save(
    model: KerasModel, network: Any, dims: Dimensions, folder: Path, prefill: Sequence[int], kv_cache_len: int
) -> list[str]:
    """Write a SavedModel. Returns the names of its signatures."""
    import tensorflow as tf

    def signature(size: int) -> Any:
        def step(tokens: Any, input_pos: Any, **caches: Any) -> Any:
            return run_step(model, network, tokens, input_pos, caches)

        shape = [1, kv_cache_len, dims.kv_heads, dims.head_dim]
        names = [f"{CACHE}{side}_{block}" for block in range(dims.blocks) for side in ("k", "v")]
        return tf.function(step).get_concrete_function(
            tokens=tf.TensorSpec([1, size], tf.int32, name="tokens"),
            input_pos=tf.TensorSpec([size], tf.int32, name="input_pos"),
            **{name: tf.TensorSpec(shape, tf.float32, name=name) for name in names},
        )

    holder = tf.Module()
    holder.held = [variable.value for variable in network.variables]
    signatures = {**{f"{PREFILL}{size}": signature(size) for size in sorted(set(prefill))}, DECODE: signature(1)}
    holder.functions = list(signatures.values())
    tf.saved_model.save(holder, str(folder), signatures=signatures)
    return list(signatures)


def converter_of(folder: Path, signatures: Sequence[str]) -> Any:
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=list(signatures))


def converted(converter: Any, name: str) -> bytes:
    """What a converter makes. Raises UsageError for operators that need Flex, with their names and what to do."""
    try:
        return bytes(converter.convert())
    except Exception as error:
        said = str(error)
        flex = needs_flex(said)
        if not flex:
            raise
        raise UsageError(
            f"{name}: TFLite has no operator for {', '.join(flex)}, and no runtime here has TensorFlow's (Flex); "
            f"{remedy_for(flex)}"
        ) from error


_NO_OPERATOR = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")


def needs_flex(said: str) -> list[str]:
    """The operators of TensorFlow that a converter's error names as having none in TFLite."""
    return list(dict.fromkeys(_NO_OPERATOR.findall(said)))[:_SHOWN]


_TOKENIZER = "a tokenizer is in the graph: leave the preprocessor out, and convert ids to ids"
_INSTEAD = {"BitwiseAnd": "keras.ops.argmax comes to this one: call tf.argmax"}
_OF_TOKENIZERS = (
    "String",
    "RegexReplace",
    "StaticRegex",
    "TFText",
    "Lookup",
    "HashTable",
    "MutableHashTable",
    "Unicode",
)


def remedy_for(operators: Sequence[str]) -> str:
    """What to do about operators that TFLite lacks, in words."""
    found = dict.fromkeys(
        _INSTEAD.get(name) or (_TOKENIZER if name.startswith(_OF_TOKENIZERS) else "") for name in operators
    )
    return "; ".join(filter(None, found)) or "compute it with operators that TFLite has"
