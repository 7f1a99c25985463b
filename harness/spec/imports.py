"""Import the frameworks that every torch stage needs, and none that no stage needs."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from harness.spec.route import every_route

_HUGGING_FACE = ("transformers.modeling_utils", "transformers.models.auto.modeling_auto")


def import_frameworks() -> None:
    """torch, the modelling half of transformers, and what the routes import that most runs take.

    They start no thread and run no operator.
    """
    with without_collecting():
        for name in ("torch", *_HUGGING_FACE):
            importlib.import_module(name)
        for route in every_route():
            if route.preloaded:
                route.import_frameworks()


@contextmanager
def without_collecting() -> Iterator[None]:
    """Imports leave next to nothing to collect, and looking for it takes a fifth of their time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
