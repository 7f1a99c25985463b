"""What a checkpoint folder is, read off its JSON files and the headers of its weights alone.

In: a folder. Out: nothing, or a UsageError of one line for what cannot be compared: an adapter, quantised weights, a
config of other sizes than the weights. No framework is imported, nothing is allocated: that a config.json asks for
100,000 layers is known before anything of that size is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.system.reading import read_json
from harness.weights.files import FLOATS, WEIGHTS_FILE, StoredTensor
from harness.weights.key_names import names_text

ADAPTER_FILE = "adapter_config.json"
# Tables that old checkpoints store and every implementation computes for itself.
COMPUTED = (
    "rotary_emb.inv_freq", "rope.freqs", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
)  # fmt: skip
# Masks, positions and counters: these dtypes are not weights.
_NO_WEIGHTS = (*FLOATS, "BOOL", "I64", "U64")
_LAYERS = ("num_hidden_layers", "num_transformer_layers", "n_layer", "num_layers")
# Field of a config -> more than any model has. What is built of a config may take time or memory by these.
_MOST = {
    **dict.fromkeys(_LAYERS, 2_000),
    **dict.fromkeys(("hidden_size", "model_dim", "n_embd"), 1_000_000),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "n_inner"), 10_000_000),
    **dict.fromkeys(
        ("num_attention_heads", "num_key_value_heads", "num_kv_heads", "num_query_heads", "n_head"), 100_000
    ),
    "head_dim": 100_000,
    "vocab_size": 100_000_000,
}
_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")
_DEQUANTISE = (
    "dequantise it (in transformers model.dequantize(), then save_pretrained), or give the float weights it was made of"
)


def refuse_adapter(folder: Path) -> None:
    """An adapter holds changes to a model, and transformers adds it wherever it finds one."""
    path = folder / ADAPTER_FILE
    if not path.is_file():
        return
    content = read_json(path, "download it again")
    content = content if isinstance(content, dict) else {}
    kind, base = content.get("peft_type") or "PEFT", content.get("base_model_name_or_path") or "its base model"
    raise UsageError(
        f"{folder} is a PEFT adapter ({kind}, for {base}): merge it first "
        "(PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(...)) and give the merged folder"
    )


def refuse_by_headers(folder: Path, raw: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """raw: config.json as it stands there. tensors: those of the headers; none for a config.json by itself."""
    named = raw.get("transformers_weights")
    if named not in (None, WEIGHTS_FILE):  # transformers would load it in place of the files that are read here
        raise UsageError(
            f"{folder}: config.json has 'transformers_weights': {repr(named)[:80]}; "
            f"name that file {WEIGHTS_FILE} and remove the entry"
        )
    if tensors:
        refuse_quantised(folder, raw, tensors)
    refuse_absurd_sizes(folder, raw, tensors)


def refuse_quantised(folder: Path, raw: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """raw: config.json as it stands there."""
    method = next((found for part in _parts(raw) if (found := _method(part))), "")
    packed = [
        name
        for name, tensor in tensors.items()
        if tensor.dtype not in _NO_WEIGHTS and len(tensor.shape) > 1 and not name.endswith(COMPUTED)
    ]
    if packed:
        kinds = "/".join(sorted({tensors[name].dtype for name in packed}))
        how = f"with {method}" if method else f"({names_text(packed[:1])} is {kinds})"
        raise UsageError(f"{folder} is quantised {how}: {_DEQUANTISE}")
    if method:
        why = "its tensors are all floats: are these the dequantised weights?" if tensors else "no float weights"
        raise UsageError(
            f"{folder}: config.json says that it is quantised with {method} ({why}); "
            f"remove 'quantization_config' from it if they are, else {_DEQUANTISE}"
        )


def refuse_absurd_sizes(folder: Path, raw: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Sizes that are none, or that the weights cannot have. tensors: none for a config.json by itself."""
    numbers = sum(prod(tensor.shape) for tensor in tensors.values())
    remedy = "use the weights and the config of one model"
    for part in (raw, _text_part(raw)):
        sizes = {name: part[name] for name in _MOST if part.get(name) is not None}
        for name, value in sizes.items():
            for size in value if isinstance(value, list) else [value]:
                if type(size) is not int or not 1 <= size <= _MOST[name]:
                    raise UsageError(
                        f"{folder}: config.json has {name} {repr(size)[:40]}, which no model has; {remedy}"
                    )
    if not tensors:
        return
    part = _text_part(raw)
    layers = next((part[name] for name in _LAYERS if part.get(name) is not None), 0)
    row, blocks = _longest_row(tensors)
    if layers > len(blocks) > 0:
        lost = min(set(range(layers)) - blocks)
        raise UsageError(
            f"{folder}: config.json has {layers:,} layers, the weights have {len(blocks):,} "
            f"({row}{lost} is not there); {remedy}"
        )
    for one, other in (("vocab_size", "hidden_size"), ("intermediate_size", "hidden_size")):
        wanted = prod(part.get(name) or 1 for name in (one, other) if isinstance(part.get(name) or 1, int))
        if wanted > numbers:
            raise UsageError(
                f"{folder}: config.json asks for a matrix of {wanted:,} numbers ({one} x {other}), "
                f"all weights together have {numbers:,}; {remedy}"
            )


def _parts(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The config and those inside it, of the text model and others."""
    yield raw
    yield from (value for name, value in raw.items() if name.endswith("_config") and isinstance(value, dict))


def _text_part(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    text = raw.get("text_config")
    return text if isinstance(text, dict) else raw


def _method(part: Mapping[str, Any]) -> str:
    """How a config says that its weights are quantised, in its own word; empty where it does not."""
    settings = part.get("quantization_config") or part.get("compression_config")
    if not isinstance(settings, dict):
        return ""
    bits = next((f", {n} bit" for n in (4, 8) if settings.get(f"load_in_{n}bit")), "")
    method = settings.get("quant_method") or ("bitsandbytes" if bits else "a method of its own")
    return f"{method}{bits}"


def _longest_row(tensors: Mapping[str, StoredTensor]) -> tuple[str, set[int]]:
    """The prefix and the numbers of the most numbered blocks that stand in one row: ("model.layers.", {0, ..., 21})."""
    rows: dict[str, set[int]] = {}
    for name in tensors:
        found = _BLOCK.search(name)
        if found is not None:
            rows.setdefault(name[: found.start(1)], set()).add(int(found.group(1)))
    return max(rows.items(), key=lambda row: len(row[1]), default=("", set()))
