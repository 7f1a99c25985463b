"""Listen to the layers of a Keras model that runs eagerly, and put a reference's values in place of its own.

In: a network and a `ModuleMap` by Keras paths. Out: taps, written to a trace. Nothing is listened to while a model is
converted: there a layer sees no numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.align.modules import ModuleMap, ModuleTap
from harness.names.taps import EMBED, FINAL_NORM, block_tap
from harness.stages.keras.points import ATTENTION
from harness.store.trace import Trace, TraceWriter
from harness.system.attributes import set_within

Array = np.ndarray[Any, Any]


@dataclass
class Capture:
    """Where taps of the step under way go: positions `start:start + valid` of `trace`.

    reference: what replaces them in a local pass. makers: takes the name of the operator that makes each tap, while a
    model is traced and not run.
    """

    trace: TraceWriter | None = None
    start: int = 0
    valid: int | None = None
    reference: Trace | None = None
    makers: dict[str, str] | None = None

    @property
    def idle(self) -> bool:
        return self.trace is None and self.reference is None and self.makers is None

    def put(self, tap: str, values: Array) -> None:
        """values: `[1, step size, ...]`; positions past `valid` are padding and are dropped."""
        if self.trace is not None:
            self.trace.put(tap, values[:, : self.valid], self.start)

    def exchange(self, tap: str, values: Array) -> Array | None:
        """Write a tap. Returns what the model goes on with in its place; None: with its own.

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
        forced = np.array(values)
        for first, end in self.reference.covered_within(tap, self.start, stop):
            forced[:, first - self.start : end - self.start] = known[:, first:end].astype(np.float32)
        return forced

    @contextmanager
    def nobody_listens(self) -> Iterator[None]:
        with set_within(self, "trace", None), set_within(self, "reference", None):
            yield


@contextmanager
def layer_taps(network: Any, modules: ModuleMap, blocks: int, capture: Capture) -> Iterator[list[str]]:
    """Within it, taps are heard; yields the paths of layers that the model does not have."""
    layers = layers_of(network)
    absent: list[str] = []
    replaced: list[tuple[Any, str, Any]] = []

    def hook(path: str, attribute: str, made: Callable[[Any], Any]) -> None:
        layer = layers.get(path)
        if layer is None:
            absent.append(path)
            return
        original = getattr(layer, attribute)
        replaced.append((layer, attribute, original))
        object.__setattr__(layer, attribute, made(original))

    for block in range(blocks):
        for entry in modules.block:
            path, tap = entry.path.format(block), block_tap(block, entry.point)
            hook(path, *_hook(tap, entry, capture))
        softmax = f"{ATTENTION.format(block)}/{SOFTMAX}"
        hook(softmax, "call", _after(block_tap(block, "attn.probs"), capture, _Probs(capture)))
    hook(modules.layer.format(0), "call", _before(EMBED, capture, _Plain()))
    if modules.final_norm is not None:
        hook(modules.final_norm, "call", _after(FINAL_NORM, capture, _Plain()))
    try:
        yield absent
    finally:
        for layer, attribute, original in reversed(replaced):
            object.__setattr__(layer, attribute, original)


SOFTMAX = "softmax"


def layers_of(network: Any) -> dict[str, Any]:
    """Layers by path, without what stands before the backbone's own layers, and without numbers that Keras adds to
    names that it has given before."""
    found: dict[str, Any] = {}
    for layer in network._flatten_layers():
        path = layer.path
        found.setdefault(path, layer)
        softmax = getattr(layer, "_softmax", None)
        if softmax is not None:
            found.setdefault(f"{path}/{SOFTMAX}", softmax)
    return found


def _hook(tap: str, entry: ModuleTap, capture: Capture) -> tuple[str, Callable[[Any], Any]]:
    """(attribute of the layer that is replaced, what replaces it)"""
    if entry.point == "mlp.up":
        return "activation", _before(tap, capture, _Plain())
    view = _Heads() if entry.point == "attn.context" else _Plain()
    if entry.side == "input":
        return "call", _before(tap, capture, view, shared=entry.point == "residual")
    return "call", _after(tap, capture, view)


@dataclass(frozen=True)
class _Plain:
    """A tensor that is the tap as it is."""

    def tap(self, values: Array) -> Array:
        return values

    def whole(self, forced: Array, values: Array) -> Array:
        return forced


class _Heads(_Plain):
    """`[1, time, heads, head_dim]` as one row of all heads."""

    def tap(self, values: Array) -> Array:
        return values.reshape(*values.shape[:2], -1)

    def whole(self, forced: Array, values: Array) -> Array:
        return forced.reshape(values.shape)


@dataclass(frozen=True)
class _Probs(_Plain):
    """`[1, heads, time, positions]`, over a cache that is longer than the input."""

    capture: Capture

    def _length(self, values: Array) -> int:
        trace = self.capture.trace
        return trace.length if trace is not None else int(values.shape[-1])

    def tap(self, values: Array) -> Array:
        return values.transpose(0, 2, 1, 3)[..., : self._length(values)]

    def whole(self, forced: Array, values: Array) -> Array:
        made = np.zeros_like(values)
        made[..., : forced.shape[-1]] = forced.transpose(0, 2, 1, 3)
        return made


def _before(tap: str, capture: Capture, view: _Plain, shared: bool = False) -> Callable[[Any], Any]:
    """shared: the very tensor is read again later: both must see the reference's value."""

    def wrap(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if capture.idle:
                return original(*args, **kwargs)
            value = args[0] if args else next(iter(kwargs.values()))
            if capture.makers is not None:
                capture.makers[tap] = value.op.name
                return original(*args, **kwargs)
            own = _numbers(value)
            forced = capture.exchange(tap, view.tap(own))
            if forced is None:
                return original(*args, **kwargs)
            if shared:
                _overwrite(value, view.whole(forced, own))
                return original(*args, **kwargs)
            given, named = _with_first(args, kwargs, _tensor(view.whole(forced, own)))
            return original(*given, **named)

        return call

    return wrap


def _with_first(args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((value, *args[1:]), dict(kwargs)) if args else ((), {**kwargs, next(iter(kwargs)): value})


def _after(tap: str, capture: Capture, view: _Plain) -> Callable[[Any], Any]:
    def wrap(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            if capture.idle:
                return output
            value = output[0] if isinstance(output, tuple) else output
            if capture.makers is not None:
                capture.makers[tap] = value.op.name
                return output
            own = _numbers(value)
            forced = capture.exchange(tap, view.tap(own))
            if forced is None:
                return output
            whole = _tensor(view.whole(forced, own))
            return (whole, *output[1:]) if isinstance(output, tuple) else whole

        return call

    return wrap


def _numbers(value: Any) -> Array:
    return np.asarray(value)


def _tensor(values: Array) -> Any:
    import tensorflow as tf

    return tf.constant(values)


def _overwrite(tensor: Any, values: Array) -> None:
    """Change an eager tensor in place. TensorFlow has no such thing, and the block adds this very tensor once more."""
    held = np.asarray(memoryview(tensor))
    given = np.ascontiguousarray(values, held.dtype)
    if held.shape != given.shape:
        raise ValueError(f"{given.shape} in place of {held.shape}")
    ctypes.memmove(held.ctypes.data, given.ctypes.data, held.nbytes)
