"""The key by which a conversion of a Keras model is kept: all that its bytes depend on. Pure but for versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.spec.fingerprints import fingerprint, source_digest
from harness.spec.replaced import flags, replaced_code
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.packages import VERSIONS
from harness.store.cache import key_of, source_of
from harness.weights.first_layers import config_text

# What loads the model and hands it to the converter.
_OWN_CODE = (
    "harness.stages.keras.convert",
    "harness.stages.keras.imports",
    "harness.stages.keras.network",
    "harness.stages.keras.quantising",
    "harness.pipeline.conversions",
)


def conversion_key(
    model: KerasModel,
    config: Any,
    weights_sha256: str,
    prefill: Sequence[int],
    kv_cache_len: int,
    code: Mapping[str, Any],
) -> str:
    """config: the published one at the sizes of the run. code: what the spec is made of, reads and changes."""
    return key_of(
        {
            "weights": weights_sha256,
            "config": config_text(config),
            "task": model.task,
            "load": fingerprint(model.load),
            "step": fingerprint(model.step),
            "prefill": list(prefill),
            "kv_cache_len": kv_cache_len,
            **replaced_code(),
            "code": dict(code),
            "flags": flags(),
            "own": {name: source_digest(source_of(name)) for name in _OWN_CODE},
            "versions": {name: _version(name) for name in VERSIONS},
        }
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
