"""Import the exporter of litert-torch.

In: nothing. Out: the module with `export`.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from harness.spec.imports import without_collecting


def import_exporter() -> Any:
    """`litert_torch.generative.export_hf.export`, which imports all of TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with without_collecting():
        return importlib.import_module("litert_torch.generative.export_hf.export")
