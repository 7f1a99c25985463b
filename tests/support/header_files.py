"""Safetensors files made by hand, right or wrong in whatever way a test asks for."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from harness.weights.files import BITS


def header_of(tensors: Mapping[str, tuple[str, list[int]]]) -> dict[str, Any]:
    """name -> (dtype, shape), one after the other."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return header


def write_file(file: Path, header: Mapping[str, Any] | bytes, size: int | None = None) -> Path:
    """size: bytes after the header; as many as it describes where it is None. They take no disk."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if size is None:
        assert not isinstance(header, bytes)
        size = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + size)
    return file
