"""Export a checkpoint folder with litert-torch's `export_hf`, and the key to keep the file by.

In: a folder in Hugging Face format and the lengths of signatures. Out: a float32 `.tflite`. Its mask is an input, its
KV cache transposed, and decode alone gives logits.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.spec.fingerprints import source_digest
from harness.spec.replaced import flags, replaced_code
from harness.stages.litert_torch.export_hf.imports import import_exporter
from harness.stages.litert_torch.packages import PACKAGES
from harness.store.cache import key_of, source_of
from harness.weights.first_layers import config_text

_OWN_CODE = (
    "harness.stages.litert_torch.export_hf.export",
    "harness.stages.litert_torch.export_hf.imports",
    "harness.stages.litert_torch.export_hf.model",
    "harness.pipeline.conversions",
)
_WRITTEN = "model.tflite"


def conversion_key(
    config: Any, weights_sha256: str, prefill: Sequence[int], kv_cache_len: int, code: Mapping[str, Any]
) -> str:
    """config: the published one at the sizes of the run. code: what the spec is made of, reads and changes."""
    return key_of(
        {
            "weights": weights_sha256,
            "config": config_text(config),
            "prefill": list(prefill),
            "kv_cache_len": kv_cache_len,
            **replaced_code(),
            "code": dict(code),
            "flags": flags(),
            "own": {name: source_digest(source_of(name)) for name in _OWN_CODE},
            "versions": {name: _version(name) for name in (*PACKAGES.converting.values(), "transformers")},
        }
    )


def export_folder(folder: Path, file: Path, prefill: Sequence[int], kv_cache_len: int, name: str) -> None:
    """folder: the checkpoint's. file: to write. name: the model's, for people.

    Raises UsageError for a model that the exporter refuses.
    """
    export = import_exporter()
    with tempfile.TemporaryDirectory(prefix="edge-parity-export-", dir=file.parent) as made:
        source, out = Path(made) / "checkpoint", Path(made) / "out"
        source.mkdir()
        for entry in sorted(folder.iterdir()):
            (source / entry.name).symlink_to(entry.resolve())
        _add_tokenizer(source)
        try:
            export.export(
                str(source),
                str(out),
                prefill_lengths=list(prefill),
                cache_length=kv_cache_len,
                quantization_recipe="",  # float32
                keep_temporary_files=True,
                bundle_litert_lm=False,
            )
        except (NotImplementedError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UsageError(f"{name}: export_hf refuses the model ({reason}); give one that it exports") from error
        os.replace(out / _WRITTEN, file)


def _add_tokenizer(folder: Path) -> None:
    """The exporter opens the folder's tokenizer, whatever it exports: where there is none, one that is never used."""
    if any(folder.glob("tokenizer*")):
        return
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    empty = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    wrapped: Any = PreTrainedTokenizerFast
    wrapped(tokenizer_object=empty).save_pretrained(folder)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
