"""Convert a re-authored model to a flatbuffer with prefill and decode signatures, once per content.

In: a model, a checkpoint and options. Out: the path of a `.tflite` in the cache, float32 unless a recipe is named. The
key covers all that the bytes depend on: weights, re-authored config, signature sizes, the spec's own code with all that
it imports and reads (`harness/spec/key.py`), versions of the packages and what in them is not as installed, and what a
spec has changed in litert-torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.names.stages import FLOAT
from harness.names.variant import Variant
from harness.spec.code import CONVERTING
from harness.spec.fingerprints import fingerprint, source_digest
from harness.spec.replaced import flags, replaced_code
from harness.stages.litert_torch.conversion_reads import Reader, changed_since
from harness.store.cache import Cache, key_of, source_of

CONVERSIONS = "conversions"
FLATBUFFER = "model.tflite"
# What loads the model and hands it to the converter.
_OWN_CODE = ("harness.stages.litert_torch.convert", "harness.stages.litert_torch.loading")


def conversion_key(
    weights_sha256: str,
    config: Any,
    model_class: Any,
    tensor_names: Any,
    prefill: list[int],
    kv_cache_len: int,
    variant: Variant,
    recipe: str = FLOAT,
    code: Mapping[str, Any] | None = None,
) -> str:
    """The cache key of a conversion.

    config: litert-torch `ModelConfig`; functions in it count by their source, as the model's class does. It says
        whether there are composites. prefill: the lengths that are converted, whoever chose them. code: what the spec
        is made of, reads and changes.
    """
    return key_of(
        {
            "weights": weights_sha256,
            "config": fingerprint(config),
            "model": fingerprint(model_class),
            "names": fingerprint(tensor_names),
            "prefill": prefill,
            "kv_cache_len": kv_cache_len,
            "kv_layout": variant.kv_layout,
            "mask_as_input": variant.mask_as_input,
            "quantize": recipe,
            "prefill_logits": True,
            **replaced_code(),
            "code": dict(code or {}),
            "flags": flags(),
            "own": {name: source_digest(source_of(name)) for name in _OWN_CODE},
            "versions": {name: _version(name) for name in CONVERTING.values()},
        }
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def convert(
    cache: Cache,
    key: str,
    build: Callable[[], Any],
    prefill: list[int],
    kv_cache_len: int,
    variant: Variant,
    recipe: str = FLOAT,
    reader: Reader | None = None,
) -> Path:
    """The flatbuffer for `key`, converted now if the cache has none. `build` makes the re-authored model.

    reader: notes what the model's own code reads meanwhile; with it, the entry is made again where that has changed.
    Raises ValueError where a recipe left every weight in float32, which quantisers do without a word.
    """

    def make(folder: Path) -> None:
        network = build()
        with reader.watching() if reader is not None else nullcontext():
            to_flatbuffer(network, folder, prefill, kv_cache_len, variant, recipe)
        if reader is not None:
            reader.write(folder)
        if recipe != FLOAT:
            check_quantised(folder / FLATBUFFER, recipe)

    found = cache.entry(CONVERSIONS, key) if reader is not None else None
    if reader is not None and found is not None and (why := changed_since(found, reader.spec, cache)):
        print(f"converting again: {why}")
        return cache.replace(CONVERSIONS, key, make) / FLATBUFFER
    return cache.build(CONVERSIONS, key, make) / FLATBUFFER


def to_flatbuffer(
    network: Any, folder: Path, prefill: list[int], kv_cache_len: int, variant: Variant, recipe: str
) -> None:
    """Convert a loaded network; writes the flatbuffer into the folder."""
    from litert_torch.generative.utilities import converter
    from litert_torch.generative.utilities.export_config import ExportConfig

    produced = converter.convert_to_tflite(
        network,
        output_path=str(folder),
        output_name_prefix="model",
        prefill_seq_len=prefill,
        kv_cache_max_len=kv_cache_len,
        quantize=converter.QuantizationName(recipe),
        export_config=ExportConfig(
            # Logits at every position, or only the last one could be compared.
            output_logits_on_prefill=True,
            kvcache_layout=kv_layout(variant),
            mask_as_input=variant.mask_as_input,
        ),
    )
    shutil.move(produced, folder / FLATBUFFER)


def check_quantised(file: Path, recipe: str) -> None:
    """Raises ValueError for a file in which the recipe left every operator as it was."""
    from harness.flatbuffer.reader import FlatbufferModel
    from harness.flatbuffer.signatures import narrow_operand

    if narrow_operand(FlatbufferModel(file)) is None:
        raise ValueError(f"{recipe} wrote a file in which nothing is quantised")


def kv_layout(variant: Variant) -> Any:
    """litert-torch's object for a variant's KV layout."""
    from litert_torch.generative.layers import kv_cache

    return {"default": kv_cache.KV_LAYOUT_DEFAULT, "transposed": kv_cache.KV_LAYOUT_TRANSPOSED}[variant.kv_layout]
