"""Small convolutional networks as TensorFlow's converter writes them: convolution, depthwise, pool, dense."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

SIZE = 32


def write_network(path: Path, off: float = 0.0, quantise: bool = False, name: str = "run") -> Path:
    """A MobileNet in small. off: added to one weight of its pointwise convolution. name: of its function."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import tensorflow as tf

    draw = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)

    first, deep, point, dense = weights(3, 3, 3, 32), weights(3, 3, 32, 1), weights(1, 1, 32, 128), weights(128, 10)
    point[0, 0, 3, 5] += off

    def network(image: object) -> object:
        x = tf.nn.relu6(tf.nn.conv2d(image, first, 2, "SAME"))
        x = tf.nn.relu6(tf.nn.depthwise_conv2d(x, deep, [1, 1, 1, 1], "SAME"))
        x = tf.nn.relu6(tf.nn.conv2d(x, point, 1, "VALID"))
        x = tf.nn.avg_pool2d(x, 2, 2, "VALID")
        return {"scores": tf.nn.softmax(tf.matmul(tf.reduce_mean(x, [1, 2]), dense))}

    network.__name__ = name
    made = tf.function(network, input_signature=[tf.TensorSpec([1, SIZE, SIZE, 3], tf.float32, name="image")])
    with tf.name_scope(name):
        concrete = made.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if quantise:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    path.write_bytes(converter.convert())
    return path
