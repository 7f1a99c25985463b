"""Which packages conversions of Keras models are made with, and what in them decides what they make. Data alone."""

from __future__ import annotations

from harness.spec.route import Packages

# TensorFlow counts by its version: nobody edits it, and to look through it takes longer than a run of a miniature.
VERSIONS = ("tensorflow", "keras", "keras-hub")

PACKAGES = Packages(
    own="keras_hub",
    converting={"keras_hub": "keras-hub", "keras": "keras"},
    edited=frozenset({"keras_hub"}),
    recorded=VERSIONS,
    variables=("KERAS_", "TF_"),
    talk=("TF_CPP_MIN_LOG_LEVEL", "TF_CPP_MAX_VLOG_LEVEL", "TF_CPP_VMODULE"),
)
