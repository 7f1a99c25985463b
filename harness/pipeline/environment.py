"""Versions of what could change a number. In: this machine. Out: name -> version."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.spec.route import recorded_distributions

_BEFORE = ("edge-parity", "torch", "torchao", "transformers")
_AFTER = (
    "ai-edge-litert",
    "ai-edge-quantizer",
    "tensorflow",
    "numpy",
    "safetensors",
)


def environment() -> dict[str, str]:
    """Versions of what could change a number."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "cpu": _cpu()}
    for name in (*_BEFORE, *recorded_distributions(), *_AFTER):  # in the order of the pipeline
        try:
            found[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:
            found[name.replace("-", "_")] = "not installed"
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
