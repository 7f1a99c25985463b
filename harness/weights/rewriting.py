"""A checkpoint folder under the names that its language model has for its tensors.

In: a folder and how transformers reads it. Out: a folder that needs no such reading: the language model's config, its
tensors byte for byte in one file, and the tokenizer. Both versions and every audit then read the same names.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

from harness.weights.configs import CONFIG_FILE
from harness.weights.files import BITS, WEIGHTS_FILE, StoredTensor
from harness.weights.published_names import Reading

# Part of the cache key: raise it when something else is written than before.
RECIPE = 1
TOKENIZER_PATTERNS = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.jinja")
_CHUNK = 1 << 24  # bytes


def write_by_its_names(source: Path, reading: Reading, folder: Path) -> None:
    """Fill an existing folder. source: the folder that was read."""
    if reading.inside:
        config = reading.config
        config.architectures = None
        config.save_pretrained(folder)
    else:
        shutil.copyfile(source / CONFIG_FILE, folder / CONFIG_FILE)
    write_tensors(reading.tensors, folder / WEIGHTS_FILE)
    for file in tokenizer_files(source):
        shutil.copyfile(file, folder / file.name)


def tokenizer_files(folder: Path) -> list[Path]:
    return sorted({file for pattern in TOKENIZER_PATTERNS for file in folder.glob(pattern) if file.is_file()})


def write_tensors(tensors: Mapping[str, StoredTensor], file: Path) -> None:
    """A safetensors file of these tensors, read where they are now; no more than a chunk is held in memory."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    # Wide numbers first, as the format's own writer has it: each tensor then begins at a multiple of its number's size.
    tensors = dict(sorted(tensors.items(), key=lambda named: (-BITS[named[1].dtype], named[0])))
    for name, tensor in tensors.items():
        end = begin + tensor.bytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            with tensor.file.open("rb") as stored:
                stored.seek(tensor.offset)
                left = tensor.bytes
                while left:
                    chunk = stored.read(min(left, _CHUNK))
                    if not chunk:
                        raise OSError(f"{tensor.file} became shorter while it was read")
                    out.write(chunk)
                    left -= len(chunk)
