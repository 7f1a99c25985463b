"""Forward hooks that write taps to a trace the moment a module has run.

In: a torch model, a `ModuleMap` and a trace. Out: nothing but the trace: the model is not changed.
Values are copied to the file at once, since the model may reuse or overwrite its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.align.layout import HeadLayout, split_gate, split_heads
from harness.align.modules import ModuleMap, ModuleTap
from harness.taps import EMBED, FINAL_NORM, block_tap
from harness.trace import TraceWriter


@dataclass
class Capture:
    """Where taps of the step under way go: positions `start:start + valid` of `trace`."""

    trace: TraceWriter | None = None
    start: int = 0
    valid: int | None = None

    def put(self, tap: str, values: torch.Tensor, how: str = "read") -> None:
        """values: `[1, step size, ...]`; positions past `valid` are padding and are dropped."""
        if self.trace is not None:
            self.trace.put(tap, as_array(values)[:, : self.valid], self.start, how)


def as_array(values: torch.Tensor) -> np.ndarray[Any, Any]:
    return values.detach().cpu().numpy()


@contextmanager
def module_taps(
    model: torch.nn.Module,
    modules: ModuleMap,
    blocks: int,
    layout_of: Callable[[int], HeadLayout],
    capture: Capture,
) -> Iterator[list[str]]:
    """Hook every module tap; yields the paths that the model does not have. layout_of: a block's heads."""
    handles, absent = [], []
    named = dict(model.named_modules())

    def hook(path: str, tap: str, entry: ModuleTap, block: int = 0) -> None:
        module = named.get(path)
        if module is None:
            absent.append(path)
        else:
            handles.append(
                module.register_forward_hook(_reader(tap, entry, layout_of(block), capture), with_kwargs=True)
            )

    for block in range(blocks):
        for entry in modules.block:
            hook(entry.path.format(block), block_tap(block, entry.point), entry, block)
    hook(modules.layer.format(0), EMBED, ModuleTap(EMBED, modules.layer, "input"))
    hook(modules.final_norm, FINAL_NORM, ModuleTap(FINAL_NORM, modules.final_norm))
    try:
        yield absent
    finally:
        for handle in handles:
            handle.remove()


def _reader(tap: str, entry: ModuleTap, layout: HeadLayout, capture: Capture) -> Any:
    def read(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        value = output
        if entry.side == "input":
            value = args[0] if args else next(iter(kwargs.values()))
        elif isinstance(output, tuple):
            value = output[0]
        capture.put(tap, _view(value, entry.view, layout))

    return read


def _view(value: torch.Tensor, view: str, layout: HeadLayout) -> torch.Tensor:
    if view in ("split_gate", "split_up"):
        return split_gate(value, view.removeprefix("split_"))  # type: ignore[no-any-return]
    if view.startswith("split_"):
        return split_heads(value, view.removeprefix("split_"), layout)  # type: ignore[no-any-return]
    if view == "heads":
        return value.reshape(1, value.shape[1], layout.heads, layout.head_dim)
    if view == "kv_heads":
        return value.reshape(1, value.shape[1], layout.kv_heads, layout.head_dim)
    return value


class BlockCounter:
    """Which block of a model is running: for what is overheard in functions, which know no module."""

    def __init__(self, layers: Iterable[torch.nn.Module]) -> None:
        self.current = 0
        self._handles = [layer.register_forward_pre_hook(self._entering(number)) for number, layer in enumerate(layers)]

    def _entering(self, number: int) -> Any:
        def enter(*_: Any) -> None:
            self.current = number

        return enter

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
