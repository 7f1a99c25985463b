"""Conversions are made once per content, and kept.

In: a key, and what makes the flatbuffer. Out: the path of a `.tflite` in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness.names.stages import FLOAT
from harness.spec.conversion_reads import Reader, changed_since
from harness.store.cache import Cache

CONVERSIONS = "conversions"
FLATBUFFER = "model.tflite"


def converted(
    cache: Cache,
    key: str,
    build: Callable[[], Any],
    write: Callable[[Any, Path], None],
    recipe: str = FLOAT,
    reader: Reader | None = None,
) -> Path:
    """The flatbuffer for `key`, converted now if the cache has none.

    build: makes the network. write: converts it to a file. reader: notes what the model's own code reads meanwhile;
    with it, the entry is made again where that has changed.
    Raises ValueError where a recipe left every weight in float32, which quantisers do without a word.
    """

    def make(folder: Path) -> None:
        network = build()
        with reader.watching() if reader is not None else nullcontext():
            write(network, folder / FLATBUFFER)
        if reader is not None:
            reader.write(folder)
        if recipe != FLOAT:
            check_quantised(folder / FLATBUFFER, recipe)

    found = cache.entry(CONVERSIONS, key) if reader is not None else None
    if reader is not None and found is not None and (why := changed_since(found, reader.spec, cache)):
        print(f"converting again: {why}")
        return cache.replace(CONVERSIONS, key, make) / FLATBUFFER
    return cache.build(CONVERSIONS, key, make) / FLATBUFFER


def is_kept(cache: Cache, key: str, spec: Path) -> bool:
    """Whether the cache has a conversion that a spec, as it and what it reads are now, need not make again."""
    entry = cache.root / CONVERSIONS / key
    return entry.is_dir() and not changed_since(entry, spec, cache)


def check_quantised(file: Path, recipe: str) -> None:
    """Raises ValueError for a file in which the recipe left every operator as it was."""
    from harness.flatbuffer.reader import FlatbufferModel
    from harness.flatbuffer.signatures import narrow_operand

    if narrow_operand(FlatbufferModel(file)) is None:
        raise ValueError(f"{recipe} wrote a file in which nothing is quantised")
