"""The safetensors of a checkpoint folder: which files there are, and what their headers say. No weight is loaded.

In: a folder in Hugging Face format. Out: its files, and its tensors by name.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.system.reading import TEXT, DoubledKeyError, check_file, read_json, without_doubles

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors format
FLOATS = ("F64", "F32", "F16", "BF16")  # what weights are stored in that no recipe has changed
# dtype of the safetensors format -> bits of a number
BITS = {
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


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

    @property
    def bytes(self) -> int:
        """That its numbers take; -1 where they fill no whole number of bytes."""
        bits = prod(self.shape) * BITS[self.dtype]
        return -1 if bits % 8 else bits // 8


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
    content = read_json(path, "download it again", TEXT)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UsageError(f"{path} is not a safetensors index (it needs a 'weight_map'); download it again")
    shards = sorted({folder / name for name in weight_map.values()})
    if not shards:
        raise UsageError(f"{path} names no shards; download it again")
    for shard in shards:
        if shard.parent != folder:
            raise UsageError(f"{path} names a shard outside its folder ({shard}); download it again")
        if not shard.is_file():
            raise UsageError(f"{path} names the shard {shard.name}, which is not there; download it")
    held = {shard: read_header(shard) for shard in shards}
    for tensor, name in weight_map.items():
        if tensor not in held[folder / name]:
            raise UsageError(f"{path} says that {name} holds {tensor}, but it does not; download both again")
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
    """The tensors of one safetensors file, whose header is checked whole.

    As https://huggingface.co/docs/safetensors has it: tensors of known dtypes that lie one after the other, each with
    as many bytes as its dtype and shape take, from the header's end to the file's end. Raises UsageError otherwise.
    """
    check_file(file, "download it again")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise UsageError(f"{file} is a Git LFS pointer, not the weights; fetch them with 'git lfs pull'")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER + 1
        if length > _LARGEST_HEADER:
            raise UsageError(f"{file} ({size} bytes) is not a safetensors file; download it again")
        text = stream.read(length)
    if len(text) < length:
        raise UsageError(f"{file} is truncated: it has {size} bytes, its header alone {8 + length}; download it again")
    try:
        header = json.loads(text, object_pairs_hook=without_doubles)
        tensors = {
            name: _described(name, entry, file, 8 + length) for name, entry in header.items() if name != "__metadata__"
        }
    except RecursionError:
        raise UsageError(f"{file} has a broken safetensors header (nested too deeply); download it again") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        why = f" ({error})" if isinstance(error, (_BrokenHeaderError, DoubledKeyError)) else ""
        raise UsageError(f"{file} has a broken safetensors header{why}; download it again") from None
    _check_layout(file, tensors, 8 + length, size)
    return tensors


class _BrokenHeaderError(ValueError):
    """Says what is wrong with a header."""


def _described(name: str, entry: Any, file: Path, start: int) -> StoredTensor:
    """start: where the tensors begin, in bytes."""
    dtype, shape = str(entry["dtype"]), entry["shape"]
    begin, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise _BrokenHeaderError(f"{name} has a size or an offset that is not a whole number of 0 or more")
    if dtype not in BITS:
        raise _BrokenHeaderError(f"{name} has the unknown dtype '{dtype}'")
    tensor = StoredTensor(name, dtype, tuple(shape), file, start + begin)
    if end - begin != tensor.bytes:
        raise _BrokenHeaderError(
            f"{name}: {dtype} of shape {shape_text(tensor.shape)} takes {tensor.bytes} bytes, "
            f"its offsets {begin} to {end} hold {end - begin}"
        )
    return tensor


def _check_layout(file: Path, tensors: Mapping[str, StoredTensor], start: int, size: int) -> None:
    """Tensors one after the other, and nothing but them. start, size: of the tensors and of the file, in bytes."""
    end, before = start, ""
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.bytes)):
        if tensor.offset != end:
            what = "overlaps" if tensor.offset < end else "leaves a gap to"
            raise UsageError(
                f"{file} has a broken safetensors header ({tensor.name} {what} {before or 'the header'}); "
                "download it again"
            )
        end, before = end + tensor.bytes, tensor.name
    if size != end:
        what = "truncated" if size < end else "too long"
        raise UsageError(f"{file} is {what}: it has {size} bytes, its header describes {end}; download it again")


def shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
