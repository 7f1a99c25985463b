"""Ways to break a model: its checkpoint, its loaded network, its weights.

In: a model's parts. Out: the same with something wrong. Pure but for `write_changed`, which writes a folder.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from harness.bench.reseed import positions_of
from harness.spec.route import Load, RouteModel
from harness.weights.files import WEIGHTS_FILE

Tensors = dict[str, torch.Tensor]
Change = Callable[[Any], Any]
ConfigChange = Callable[[dict[str, Any]], Any]


def unchanged(_: Any) -> None:
    """Breaks nothing."""


def write_changed(
    source: Path,
    target: Path,
    change: Callable[[Tensors], Any] = unchanged,
    config: ConfigChange = unchanged,
) -> None:
    """A copy of a checkpoint folder with other tensors or another config."""
    target.mkdir()
    tensors = load_file(source / WEIGHTS_FILE)
    change(tensors)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        target / WEIGHTS_FILE,
        metadata={"format": "pt"},
    )
    content = json.loads((source / "config.json").read_text())
    config(content)
    (target / "config.json").write_text(json.dumps(content))


def loading(change: Change) -> Load:
    """What loads the route's own network and changes it."""

    def load(own: RouteModel, checkpoint: Path, kv_cache_len: int) -> Any:
        network = own.load(checkpoint, kv_cache_len)
        with torch.no_grad():
            change(network)
        return network

    return load


def set_weight(module: Any, values: torch.Tensor) -> None:
    # A parameter of its own: the loaded one may be mapped from the checkpoint's file.
    module.weight = torch.nn.Parameter(values.clone(), requires_grad=False)


def jiggled(values: torch.Tensor, relative: float = 1e-4, seed: int = 0) -> torch.Tensor:
    """Every number a little off: times 1 + `relative`, or 1 - `relative`."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, values.shape, generator=generator) * 2 - 1
    return values * (1 + relative * signs)


def swap(file: Path, one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> None:
    """Exchange two weight matrices of the same shape."""
    places, others = positions_of(file, one), positions_of(file, other)
    for at, values in [*((at, other) for at in places), *((at, one) for at in others)]:
        with file.open("r+b") as stream:
            stream.seek(at)
            stream.write(np.ascontiguousarray(values, np.float32).tobytes())


def flipped(value: float, bit: int = 23) -> np.float32:
    """A float32 with one bit turned over; bit 23 is the lowest of the exponent, which doubles or halves it."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return np.float32(struct.unpack("<f", struct.pack("<I", bits ^ (1 << bit)))[0])


def typical_element(values: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """The element whose size is nearest to the matrix's root mean square."""
    rms = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
    return tuple(int(i) for i in np.unravel_index(np.abs(np.abs(values) - rms).argmin(), values.shape))


def with_flip(values: np.ndarray[Any, Any], at: tuple[int, ...], bit: int = 23) -> np.ndarray[Any, Any]:
    changed = values.copy()
    changed[at] = flipped(float(values[at]), bit)
    return changed
