"""Convert a re-authored model to a flatbuffer with prefill and decode signatures, once per content.

In: a model, a checkpoint and options. Out: the path of a `.tflite` in the cache, float32 unless a recipe is named. The
key covers all that the bytes depend on: weights, re-authored config and code, signature sizes, converter versions, and
what a spec has put in the place of litert-torch's own functions.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import inspect
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.cache import Cache, key_of
from harness.recipes import FLOAT
from harness.variant import Variant

CONVERSIONS = "conversions"
FLATBUFFER = "model.tflite"
_CONVERTER_PACKAGES = ("litert-torch", "litert-converter", "torch")


def conversion_key(
    weights_sha256: str,
    config: Any,
    model_class: Any,
    tensor_names: Any,
    prefill: list[int],
    kv_cache_len: int,
    variant: Variant,
    recipe: str = FLOAT,
) -> str:
    """The cache key of a conversion.

    config: litert-torch `ModelConfig`; functions in it count by their source, as the model's class does. It says
        whether there are composites. prefill: the lengths that are converted, whoever chose them.
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
            "versions": {name: version(name) for name in _CONVERTER_PACKAGES},
        }
    )


def fingerprint(value: Any) -> Any:
    """JSON-able content of a config. Code counts by the file it stands in, so an edited model is converted again."""
    if isinstance(value, enum.Enum):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: fingerprint(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): fingerprint(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fingerprint(item) for item in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return repr(value)
    if isinstance(value, type):
        return [_code(base) for base in value.__mro__ if base.__module__.split(".")[0] not in ("builtins", "torch")]
    if callable(value):
        return _code(value)
    return repr(value)


def _code(value: Any) -> list[str]:
    # functools.partial and other callables without a source count by their text and what they wrap.
    inner = getattr(value, "func", None)
    if inner is not None:
        return [repr(fingerprint(value.args)), repr(fingerprint(value.keywords)), *_code(inner)]
    try:
        source = Path(inspect.getsourcefile(value) or "").read_bytes()
    except (TypeError, OSError):
        source = repr(value).encode()
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    return [name, hashlib.sha256(source).hexdigest()]


def replaced_code() -> dict[str, list[str]]:
    """Functions that a spec has put in the place of litert-torch's own, with the file each comes from.

    Empty where there are none, so that the key of a model that replaces nothing is what it was.
    """
    package = sys.modules.get("litert_torch")
    installed = (*(str(Path(path).parent) for path in getattr(package, "__path__", [])), sysconfig.get_path("stdlib"))
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "litert_torch":
            continue
        classes = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == name]
        for holder in (module, *classes):
            for attribute, value in vars(holder).items():
                file = getattr(getattr(value, "__code__", None), "co_filename", "<")
                if not file.startswith(("<", *installed)):
                    found[f"{getattr(holder, '__qualname__', name)}.{attribute}"] = _code(value)
    return {"replaced": [str(sorted(found.items()))]} if found else {}


def convert(
    cache: Cache,
    key: str,
    build: Callable[[], Any],
    prefill: list[int],
    kv_cache_len: int,
    variant: Variant,
    recipe: str = FLOAT,
) -> Path:
    """The flatbuffer for `key`, converted now if the cache has none. `build` makes the re-authored model.

    Raises ValueError where a recipe left every weight in float32, which quantisers do without a word.
    """

    def make(folder: Path) -> None:
        network = build()
        _to_flatbuffer(network, folder, prefill, kv_cache_len, variant, recipe)
        if recipe != FLOAT:
            _check_quantised(folder / FLATBUFFER, recipe)

    return cache.build(CONVERSIONS, key, make) / FLATBUFFER


def _to_flatbuffer(
    network: Any, folder: Path, prefill: list[int], kv_cache_len: int, variant: Variant, recipe: str
) -> None:
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


def _check_quantised(file: Path, recipe: str) -> None:
    from harness.flatbuffer.reader import FlatbufferModel
    from harness.flatbuffer.signatures import narrow_operand

    if narrow_operand(FlatbufferModel(file)) is None:
        raise ValueError(f"{recipe} wrote a file in which nothing is quantised")


def kv_layout(variant: Variant) -> Any:
    """litert-torch's object for a variant's KV layout."""
    from litert_torch.generative.layers import kv_cache

    return {"default": kv_cache.KV_LAYOUT_DEFAULT, "transposed": kv_cache.KV_LAYOUT_TRANSPOSED}[variant.kv_layout]
