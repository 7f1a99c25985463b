"""Convert a re-authored model to a flatbuffer with prefill and decode signatures.

In: a loaded network and options. Out: a `.tflite`, float32 unless a recipe is named; and the key to keep it by. The key
covers all that the bytes depend on: weights, re-authored config, signature sizes, the spec's own code with all that it
imports and reads (`harness/spec/key.py`), versions of the packages and what in them is not as installed, and what a
spec has changed in litert-torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.names.recipes import Rules
from harness.names.variant import Variant
from harness.spec.fingerprints import fingerprint, source_digest
from harness.spec.replaced import flags, replaced_code
from harness.stages.litert_torch.packages import PACKAGES
from harness.store.cache import key_of, source_of

# What loads the model and hands it to the converter.
_OWN_CODE = (
    "harness.stages.litert_torch.convert",
    "harness.stages.litert_torch.loader",
    "harness.stages.litert_torch.loading",
    "harness.stages.litert_torch.model",
    "harness.pipeline.conversions",
)


def conversion_key(
    weights_sha256: str,
    config: Any,
    model_class: Any,
    tensor_names: Any,
    prefill: list[int],
    kv_cache_len: int,
    variant: Variant,
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
            "prefill_logits": True,
            **replaced_code(),
            "code": dict(code or {}),
            "flags": flags(),
            "own": {name: source_digest(source_of(name)) for name in _OWN_CODE},
            "versions": {name: _version(name) for name in PACKAGES.converting.values()},
        }
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def to_flatbuffer(network: Any, file: Path, prefill: list[int], kv_cache_len: int, variant: Variant) -> None:
    """Convert a loaded network to a float32 file, with logits at every position: they could not be compared else.

    file: to write.
    """
    from litert_torch.generative.utilities import converter
    from litert_torch.generative.utilities.export_config import ExportConfig

    produced = converter.convert_to_tflite(
        network,
        output_path=str(file.parent),
        output_name_prefix=file.stem,
        prefill_seq_len=prefill,
        kv_cache_max_len=kv_cache_len,
        quantize=converter.QuantizationName.NONE,
        export_config=ExportConfig(
            output_logits_on_prefill=True,
            kvcache_layout=kv_layout(variant),
            mask_as_input=variant.mask_as_input,
        ),
    )
    shutil.move(produced, file)


def recipe_rules(mode: str, config: Any) -> Rules:
    """What a mode of the converter does to the float32 file, as a recipe of ai-edge-quantizer. config: a `ModelConfig`.

    The converter quantises as its last step, by these rules: whoever applies them to its float32 file gets the same
    bytes.
    """
    from litert_torch.generative.utilities import converter
    from litert_torch.quantize.translate_recipe import translate_to_ai_edge_recipe

    found = converter.get_quant_recipe_from_flag(converter.QuantizationName(mode), config)
    rules = translate_to_ai_edge_recipe(found.generative_recipe)
    return list(json.loads(json.dumps(rules)))  # words in place of its own enumerations, as in a recipe's file


def kv_layout(variant: Variant) -> Any:
    """litert-torch's object for a variant's KV layout."""
    from litert_torch.generative.layers import kv_cache

    return {"default": kv_cache.KV_LAYOUT_DEFAULT, "transposed": kv_cache.KV_LAYOUT_TRANSPOSED}[variant.kv_layout]
