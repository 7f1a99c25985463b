"""Packages that a part of the work needs and that the installation leaves out: the extras of the distribution.

In: the name of an extra. Out: which of its distributions are not installed, in words. Imports none of them.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

KERAS, LITERT_LM = "keras", "litert-lm"
# Those that no other requirement brings.
DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    KERAS: ("keras", "keras-hub", "tensorflow-text"),
    LITERT_LM: ("litert-lm-api",),
}


def install(extra: str) -> str:
    """What brings an extra."""
    return f"run 'make extras' in the checkout, elsewhere pip install 'edge-parity[{extra}]'"


def lacking(extra: str) -> list[str]:
    """The distributions of an extra that are not installed; empty where all are, and for an extra not listed here."""
    return [name for name in DISTRIBUTIONS.get(extra, ()) if not _installed(name)]


def why_not(extra: str) -> str:
    """What is missing and what brings it; empty where nothing is."""
    names = lacking(extra)
    return f"the extra '{extra}' is not installed ({', '.join(names)}): {install(extra)}" if names else ""


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
