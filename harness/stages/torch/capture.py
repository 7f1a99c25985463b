"""Hooks that write taps to a trace the moment they are computed, and in a local pass put a reference's values in place.

In: a torch model, a `ModuleMap` and a trace. Out: the trace. Without a reference the model is not changed. With one,
every tap is written as the model computed it, and the model goes on with the reference's value: so each tap of the
trace is computed from right inputs, and its error is what was introduced there. Values are copied to the file at once,
since the model may reuse or overwrite its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.align.layout import HeadLayout, join_gate, join_heads, split_gate, split_heads
from harness.align.modules import ModuleMap, ModuleTap
from harness.names.taps import EMBED, FINAL_NORM, block_tap
from harness.store.trace import Trace, TraceWriter
from harness.system.attributes import set_within


@dataclass
class Capture:
    """Where taps of the step under way go: positions `start:start + valid` of `trace`.

    reference: what replaces them in a local pass. idle: nobody listens at all, so nothing is derived for taps alone.
    """

    trace: TraceWriter | None = None
    start: int = 0
    valid: int | None = None
    reference: Trace | None = None
    idle: bool = False

    def put(self, tap: str, values: torch.Tensor, how: str = "read", at: int = 0) -> None:
        """values: `[1, time, ...]` from position `at` of the step on; those past `valid` are padding, and dropped."""
        if self.trace is not None:
            left = None if self.valid is None else max(0, self.valid - at)
            self.trace.put(tap, as_array(values)[:, :left], self.start + at, how)

    def keeps(self, tap: str, size: int) -> bool:
        """Whether any of the `size` positions of the step is kept of a tap."""
        return self.trace is None or bool(self.trace.kept(tap, self.start, self.start + size))

    def exchange(self, tap: str, values: torch.Tensor) -> torch.Tensor | None:
        """Write a tap. Returns what the model goes on with in its place, `[1, step size, ...]`; None: with its own.

        Padding keeps the model's own values, and so does a tap that the reference lacks or has in another shape, and a
        position that it does not hold.
        """
        self.put(tap, values)
        if self.reference is None or tap not in self.reference:
            return None
        known = self.reference.load(tap)
        if known.shape[2:] != values.shape[2:]:
            return None
        stop = self.start + values[:, : self.valid].shape[1]
        forced = values.clone()
        for first, end in self.reference.covered_within(tap, self.start, stop):
            here = slice(first - self.start, end - self.start)
            forced[:, here] = torch.from_numpy(known[:, first:end].astype(np.float32))
        return forced

    @contextmanager
    def nobody_listens(self) -> Iterator[None]:
        """Within it the model runs as if nothing were hooked, whatever was traced before."""
        with set_within(self, "trace", None), set_within(self, "reference", None), set_within(self, "idle", True):
            yield


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
        elif entry.side == "input":
            handles.append(module.register_forward_pre_hook(_input_reader(tap, entry, capture), with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(_output_reader(tap, entry, layout_of(block), capture)))

    for block in range(blocks):
        for entry in modules.block:
            hook(entry.path.format(block), block_tap(block, entry.point), entry, block)
    hook(modules.layer.format(0), EMBED, ModuleTap(EMBED, modules.layer, "input"))
    if modules.final_norm is not None:  # a declaration may leave it unnamed
        hook(modules.final_norm, FINAL_NORM, ModuleTap(FINAL_NORM, modules.final_norm))
    try:
        yield absent
    finally:
        for handle in handles:
            handle.remove()


def _input_reader(tap: str, entry: ModuleTap, capture: Capture) -> Any:
    def read(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, object]) -> Any:
        value: Any = args[0] if args else next(iter(kwargs.values()))
        forced = capture.exchange(tap, value)
        if forced is None:
            return None
        if entry.point == "residual":
            # The same tensor is added to the MLP's output later: both uses must see the reference's value.
            value.copy_(forced)
            return None
        return ((forced, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): forced})

    return read


def _output_reader(tap: str, entry: ModuleTap, layout: HeadLayout, capture: Capture) -> Any:
    def read(_: Any, args: tuple[Any, ...], output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) else output
        forced = capture.exchange(tap, _view(value, entry.view, layout))
        if forced is None:
            return None
        whole = _whole(value, forced, entry.view, layout)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

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


def _whole(value: torch.Tensor, viewed: torch.Tensor, view: str, layout: HeadLayout) -> torch.Tensor:
    """`_view` turned round: what a module gives, with `viewed` in it. value: what it gave, for the other parts."""
    if view in ("split_gate", "split_up"):
        parts = {part: split_gate(value, part) for part in ("gate", "up")}
        return join_gate({**parts, view.removeprefix("split_"): viewed})  # type: ignore[no-any-return]
    if view.startswith("split_"):
        parts = {part: split_heads(value, part, layout) for part in ("q", "k", "v")}
        return join_heads({**parts, view.removeprefix("split_"): viewed}, layout)  # type: ignore[no-any-return]
    return viewed.reshape(value.shape)


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
