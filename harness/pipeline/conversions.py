"""Conversions are made once per content, and kept.

In: a key, and what makes the flatbuffer. Out: the path of a `.tflite` in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.jobs.prepared import Prepared
from harness.names.recipes import Rules
from harness.names.stages import FLOAT
from harness.spec.conversion_reads import Reader, changed_since
from harness.spec.fingerprints import source_digest
from harness.store.cache import Cache, key_of, source_of

CONVERSIONS = "conversions"
QUANTISED = "quantised"
FLATBUFFER = "model.tflite"


def converted(
    cache: Cache,
    key: str,
    build: Callable[[], Any],
    write: Callable[[Any, Path], None],
    reader: Reader | None = None,
) -> Path:
    """The flatbuffer for `key`, converted now if the cache has none.

    build: makes the network. write: converts it to a file. reader: notes what the model's own code reads meanwhile;
    with it, the entry is made again where that has changed.
    """

    def make(folder: Path) -> None:
        network = build()
        with reader.watching() if reader is not None else nullcontext():
            write(network, folder / FLATBUFFER)
        if reader is not None:
            reader.write(folder)

    found = cache.entry(CONVERSIONS, key) if reader is not None else None
    if reader is not None and found is not None and (why := changed_since(found, reader.spec, cache)):
        print(f"converting again: {why}")
        return cache.replace(CONVERSIONS, key, make) / FLATBUFFER
    return cache.build(CONVERSIONS, key, make) / FLATBUFFER


def key_of_recipe(prepared: Prepared, recipe: str) -> str:
    """Of the conversion to float32, and of one in a mode that finds its ranges on the run's own inputs."""
    if recipe == FLOAT:
        return prepared.conversion_key
    inputs = [[item.tokens, item.decode_tail, item.earlier] for item in prepared.inputs]
    return key_of({"conversion": prepared.conversion_key, "recipe": recipe, "inputs": inputs})


def is_kept(cache: Cache, key: str, spec: Path) -> bool:
    """Whether the cache has a conversion that a spec, as it and what it reads are now, need not make again."""
    entry = cache.root / CONVERSIONS / key
    return entry.is_dir() and not changed_since(entry, spec, cache)


def quantised(cache: Cache, source: Path, sha256: str, rules: Rules, recipe: str) -> tuple[Path, bool]:
    """The file that a recipe makes of a float32 one, and whether it was made now.

    sha256: of the source. Raises UsageError where a recipe left every weight in float32, which quantisers do without a
    word.
    """
    from harness.flatbuffer.quantise import quantise, quantiser_version

    code = source_digest(source_of("harness.flatbuffer.quantise"))
    key = key_of({"flatbuffer": sha256, "rules": rules, "quantiser": quantiser_version(), "code": code})
    made = False

    def make(folder: Path) -> None:
        nonlocal made
        made = True
        quantise(source, rules, folder / FLATBUFFER, recipe)
        check_quantised(folder / FLATBUFFER, recipe)

    return cache.build(QUANTISED, key, make) / FLATBUFFER, made


def check_quantised(file: Path, recipe: str, quantiser: str = "ai-edge-quantizer") -> None:
    """Raises UsageError for a file in which the recipe left every operator as it was. quantiser: who made it."""
    from harness.flatbuffer.reader import FlatbufferModel
    from harness.flatbuffer.signatures import is_quantised

    if not is_quantised(FlatbufferModel(file)):
        raise UsageError(
            f"--quantize {recipe} left every weight in float32: no rule of it matches an operator of the file, or "
            f"{quantiser} does not support what it asks for; give another recipe"
        )
