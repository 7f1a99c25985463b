"""Declarations of full width: every size is the published one, but for the vocabulary, which widens no sum.

In: a registered model's name. Out: a spec file. A head over 4,096 tokens adds as many terms as one over 256,000, and
the file is a tenth as large.
"""

from __future__ import annotations

from pathlib import Path

from paths import ROOT

from harness.spec.find import find_spec

VOCABULARY = 4096
# The listed remedies of known defects: Falcon's bias, and attention with one KV head.
FILES = {"falcon": ROOT / "suites" / "upstream" / "falcon_rounded.py"}
VARIANTS = {"gemma1": "kv=transposed", "gemma3": "kv=transposed"}

_SPEC = '''
"""{name} at full width, with a vocabulary of {vocabulary}."""

import importlib.util
import sys

from litert_torch import generative

from harness import GenerativeModel

_found = importlib.util.spec_from_file_location("edge_parity_whole_{name}", {file!r})
_module = importlib.util.module_from_spec(_found)
sys.modules[_found.name] = _module
_found.loader.exec_module(_module)
WHOLE = _module.{variable}


def _narrow(config):
    config.vocab_size = {vocabulary}
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, token, None)
        if hasattr(config, token) and not (isinstance(value, int) and value < {vocabulary}):
            setattr(config, token, None)
    return config


WIDE = GenerativeModel(
    name="{name}_wide",
    hf_id=WHOLE.hf_id,
    config=lambda: _narrow(WHOLE.config()),
    model_class=WHOLE.model_class,
    tensor_names=WHOLE.tensor_names,
    published=lambda: _narrow(WHOLE.published()),
    load_weights=WHOLE.load_weights,
    alignment=WHOLE.alignment,
    reference=WHOLE.reference,
    coverage=WHOLE.coverage,
)
'''


def wide_spec(name: str, folder: Path) -> str:
    """Write the declaration into a folder; returns what `edge-parity run` takes for it."""
    ref = find_spec(str(FILES.get(name, name)))
    file = folder / f"{name}_wide.py"
    text = _SPEC.format(name=name, file=str(ref.file), variable=ref.variable, vocabulary=VOCABULARY)
    file.write_text(text.lstrip())
    return f"{file}:WIDE"
