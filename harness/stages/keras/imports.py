"""Import Keras with TensorFlow under it, or say what is missing.

In: nothing. Out: the module `keras_hub`, in a process whose Keras computes with TensorFlow in float32.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any

from harness.errors import UsageError
from harness.spec.imports import without_collecting
from harness.system.extras import KERAS, why_not

BACKEND = "tensorflow"


def import_keras_hub() -> Any:
    """`keras_hub`. Raises UsageError where the extra is missing, and where Keras was imported on another backend."""
    missing = why_not(KERAS)
    if missing:
        raise UsageError(missing)
    os.environ["KERAS_BACKEND"] = BACKEND  # read when Keras is imported, and never again
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with without_collecting():
        keras: Any = importlib.import_module("keras")
        found = keras.backend.backend()
        if found != BACKEND:
            raise UsageError(
                f"Keras computes with {found} in this process, and the converter is TensorFlow's; "
                "let the spec import keras_hub itself, and set no KERAS_BACKEND"
            )
        keras.config.set_dtype_policy("float32")
        return importlib.import_module("keras_hub")


def compute_with(threads: int) -> None:
    """Threads of TensorFlow's operators, which it takes before its first operator alone."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # it has computed in this process
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
