"""The routes: the ways by which a published model becomes a flatbuffer.

In: nothing. Out: where each route's code is, as "module:object". Pure, and imports nothing: `harness/spec/route.py`
finds the object. A declaration names its route itself; those here are known before a declaration has been run.
"""

from __future__ import annotations

from collections.abc import Mapping

_REGISTRY: list[str] = [
    "harness.stages.litert_torch.route:ROUTE",
    "harness.stages.keras.route:ROUTE",
    "harness.stages.litert_torch.export_hf.route:ROUTE",
]

# Routes that need no declaration beside a checkpoint folder, as `--route` names them -> the class that declares one.
OF_FOLDERS: Mapping[str, str] = {"export-hf": "ExportHFModel"}


def known_routes() -> tuple[str, ...]:
    return tuple(_REGISTRY)


def register(route: str) -> None:
    """Add a route, as "module:object"."""
    _REGISTRY.append(route)


def unregister(route: str) -> None:
    """Take back what `register` added."""
    _REGISTRY.remove(route)


# Makes a tokenizer of Hugging Face a SentencePiece model, which is all that a `.task` takes.
TO_SENTENCEPIECE = "harness.stages.litert_torch.sentencepiece:convert"
