"""The safetensors of a checkpoint folder: which files there are, and what their headers say. No weight is loaded.

In: a folder in Hugging Face format. Out: its files, and its tensors by name.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.reading import TEXT, check_file, read_json

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors format


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as its file's header describes it; `dtype` in safetensors' words, e.g. "BF16".

    offset: of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int = 0


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that transformers loads from a folder: one file, or all shards of the index.

    Raises UsageError when there are none, when only pickles are there, or when shards are missing.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if (folder / INDEX_FILE).is_file():
        return _shards(folder)
    others = sorted(folder.glob("*.safetensors"))
    if others:
        raise UsageError(
            f"{folder} has {others[0].name} but neither {WEIGHTS_FILE} nor {INDEX_FILE}; "
            f"rename a single file to {WEIGHTS_FILE}, or add the index of the shards"
        )
    pickles = sorted(file for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise UsageError(
            f"{folder} has its weights only as pickles ({pickles[0].name}), which are not read because loading one "
            "can run code; convert it once: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
        )
    raise UsageError(f"{folder} has no *.safetensors; give a folder that holds {WEIGHTS_FILE}")


def _shards(folder: Path) -> list[Path]:
    path = folder / INDEX_FILE
    try:
        weight_map = read_json(path, "download it again", TEXT)["weight_map"]
        shards = sorted({folder / str(name) for name in weight_map.values()})
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} is no safetensors index (it needs a 'weight_map'); download it again") from None
    for shard in shards:
        if shard.parent != folder:
            raise UsageError(f"{path} names a shard outside its folder ({shard}); download it again")
        if not shard.is_file():
            raise UsageError(f"{path} names the shard {shard.name}, which is not there; download it")
    held = {shard.name: read_header(shard) for shard in shards}
    for tensor, shard_name in weight_map.items():
        if tensor not in held[shard_name]:
            raise UsageError(f"{path} says that {shard_name} holds {tensor}, but it does not; download both again")
    if not shards:
        raise UsageError(f"{path} names no shards; download it again")
    return shards


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint by name, read from the files' headers; no weights are loaded."""
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise UsageError(f"{name} is in both {tensors[name].file} and {file}; keep it in one of them")
            tensors[name] = tensor
    return tensors


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file. Raises UsageError when its length is not what its header says."""
    check_file(file, "download it again")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise UsageError(f"{file} is a Git LFS pointer, not the weights; fetch them with 'git lfs pull'")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER + 1
        if length > _LARGEST_HEADER:
            raise UsageError(f"{file} ({size} bytes) is no safetensors file; download it again")
        text = stream.read(length)
    if len(text) < length:
        raise UsageError(f"{file} is truncated: it has {size} bytes, its header alone {8 + length}; download it again")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        tensors = {
            name: StoredTensor(
                name,
                str(entry["dtype"]),
                tuple(int(n) for n in entry["shape"]),
                file,
                8 + length + int(entry["data_offsets"][0]),
            )
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        raise UsageError(f"{file} has a broken safetensors header; download it again") from None
    if size != 8 + length + end:
        what = "truncated" if size < 8 + length + end else "too long"
        raise UsageError(
            f"{file} is {what}: it has {size} bytes, its header describes {8 + length + end}; download it again"
        )
    return tensors


def shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
