"""Packages that cannot be imported here, as a rule because of a variable that they read and refuse.

In: what an import raised. Out: one line that names the package, what it said and the variables that are set.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from harness.errors import told
from harness.system.started import STARTED_WITH

# What torch, transformers, numpy, their libraries and Python itself read while they are imported.
_VARIABLES = ("PYTHONOPTIMIZE", "PYTHONWARNINGS")
_PREFIXES = ("TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRANSFORMERS_", "MKL_", "OMP_", "KMP_", "NPY_")
_LONGEST = 60  # characters of a value
_INSTALLED = f"{os.sep}site-packages{os.sep}"
_OWN = str(Path(__file__).resolve().parents[1]) + os.sep

# What the import of the frameworks said in the process that torch stages are forked from; empty where all is well.
failure = ""


def note_failure(error: Exception) -> None:
    """For all processes that are forked from this one."""
    global failure
    failure = words_of(error)


def variables_set() -> list[str]:
    """`NAME=value` of what the frameworks read, as it was when this process began."""
    return [f"{name}={value[:_LONGEST]}" for name, value in sorted(STARTED_WITH.items()) if _is_read(name)]


def words_of(error: BaseException) -> str:
    """What could not be imported, what it said, and what may be the reason."""
    package = _package(traceback.extract_tb(error.__traceback__)[-1].filename) or "a package"
    given = variables_set()
    remedy = (
        f"unset what it may refuse of {', '.join(given)}" if given else "'edge-parity doctor' looks at the installation"
    )
    return f"{package} cannot be imported ({told(error)}); {remedy}"


def refused(error: BaseException) -> str:
    """The same for an error that came while code of ours imported a package, with such variables set; else ""."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = next((number for number, frame in enumerate(frames) if _package(frame.filename)), None)
    if not inside or not frames[inside - 1].filename.startswith((_OWN, "<frozen importlib")):
        return ""
    importing = any(frame.name == "<module>" for frame in frames[inside:])
    known = importing and any(map(_is_read, STARTED_WITH)) and _package(frames[-1].filename)
    return words_of(error) if known else ""


def _is_read(name: str) -> bool:
    return name in _VARIABLES or name.startswith(_PREFIXES)


def _package(file: str) -> str:
    """The installed package that a file belongs to; empty for others."""
    return file.rpartition(_INSTALLED)[2].split(os.sep)[0] if _INSTALLED in file else ""
