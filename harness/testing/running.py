"""A candidate and a reference, run on the same inputs: each on copies of its own, from the same seed.

In: callables, inputs and a seed. Out: what each gives, as named arrays; of the reference in true float64, and in its
own type in several orders of summation. Whatever a run writes, to an input or to the buffers of a module, is undone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from harness.errors import told
from harness.stages.torch.attention import probabilities
from harness.stages.torch.intercept import Intercept, TorchCall
from harness.stages.torch.summation import DEVICE, OtherSummation
from harness.testing.outputs import Array, Output, UncomparableError, outputs_of
from harness.testing.shadow import Shadowed, widened

_HALVES = (torch.float16, torch.bfloat16)
# Products of at most so many terms are added term by term as well, as the kernels of a device do; it takes 10 ms.
_TERM_BY_TERM = 1 << 25
_FEWEST_ROWS = 16  # for which a weight is read as it lies; below, turning it takes longer than multiplying
Modes = Sequence[AbstractContextManager[Any]]


@dataclass(frozen=True)
class Call:
    """What both sides are called with. inputs: tensors, arrays, and tuples, lists and dicts with those in them."""

    inputs: tuple[Any, ...]
    keywords: Mapping[str, Any]
    seed: int
    only: tuple[str, ...] | None

    def only_zeros(self) -> bool:
        """Whether there are numbers in the inputs, and all are zero: those of float tensors, if there are any, for
        positions and the like say nothing of them; else those of the whole ones."""
        tensors = list(tensors_of(mapped((self.inputs, dict(self.keywords)), as_tensor)))
        counted = [one for one in tensors if one.is_floating_point() or one.is_complex()]
        counted = counted or [one for one in tensors if one.dtype != torch.bool]
        return any(one.numel() for one in counted) and not any(bool(one.any()) for one in counted)


@dataclass(frozen=True)
class Truth:
    """What a reference gives. exact: in float64. samples: in its own type, as it is and with sums in other orders."""

    exact: dict[str, Output]
    samples: list[dict[str, Output]]


@dataclass(frozen=True)
class Sides:
    """Both sides, what they were called with and what they gave: all that a guess at the cause may use.

    dtype: the narrow type that the candidate is meant to be of; empty for float32.
    """

    candidate: Callable[..., Any]
    reference: Callable[..., Any]
    call: Call
    numpy: bool
    truth: Truth
    made: dict[str, Output]
    dtype: str

    def given_arrays(self) -> dict[str, Array]:
        """The inputs that are float tensors or arrays, by how they are called in messages."""
        tensors = tensors_of(mapped((self.call.inputs, dict(self.call.keywords)), as_tensor))
        floats = (tensor for tensor in tensors if tensor.is_floating_point())
        return {f"input {number}": tensor.double().numpy() for number, tensor in enumerate(floats)}


def candidate_outputs(candidate: Callable[..., Any], call: Call, numpy: bool, modes: Modes = ()) -> dict[str, Output]:
    """numpy: whether it takes arrays, and so do its keyword arguments. modes: see `reference_outputs`."""
    with _undone(candidate), _seeded(call.seed), torch.no_grad(), ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        convert = _as_array if numpy else as_tensor
        given = candidate(*mapped(call.inputs, convert), **mapped(dict(call.keywords), convert))
        return outputs_of(given, call.only)


def truth(reference: Callable[..., Any], call: Call, dtype: torch.dtype | None = None) -> Truth:
    """The reference on everything that it is compared with.

    dtype: the narrow type that the candidate is meant to compute in; the samples are then of that type.
    """
    samples = [reference_outputs(reference, call, [_Narrow(dtype)] if dtype else [])]
    exact = exact_outputs(reference, call)
    if dtype is None:
        pieces = _Reordered(1)
        samples.append(reference_outputs(reference, call, [pieces, _Unfused()]))
        if pieces.quick:  # else the third run would be the first one once more
            samples.append(reference_outputs(reference, call, [_Reordered(DEVICE), _Unfused()]))
    return Truth(exact, samples)


def reference_outputs(reference: Callable[..., Any], call: Call, modes: Modes = ()) -> dict[str, Output]:
    """modes: entered one within the other; the last one sees a call first."""
    with _undone(reference), _seeded(call.seed), torch.no_grad(), ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        given = reference(*mapped(call.inputs, as_tensor), **mapped(dict(call.keywords), as_tensor))
    return outputs_of(given, call.only)


def exact_outputs(reference: Callable[..., Any], call: Call, modes: Modes = ()) -> dict[str, Output]:
    """In true float64. modes: within it. Raises UncomparableError where that cannot be had."""
    halves = _of_halves(reference, call)

    def convert(value: Any) -> Any:
        tensor = as_tensor(value)
        return widened(tensor, halves) if isinstance(tensor, torch.Tensor) else tensor

    inputs, keywords = mapped(call.inputs, convert), mapped(dict(call.keywords), convert)
    mode = Shadowed(halves)
    try:
        with _undone(reference), _seeded(call.seed), torch.no_grad(), mode, ExitStack() as stack:
            for inner in modes:
                stack.enter_context(inner)
            given = reference(*inputs, **keywords)
    except Exception as error:
        raise UncomparableError(
            f"the reference runs in float32 and not in float64 ({told(error)}); give one of plain torch operators"
        ) from error
    if mode.lost:
        name, count = mode.lost.most_common(1)[0]
        raise UncomparableError(
            f"the reference is not float64 throughout: {name} gave float32 {count} times; give one of plain torch "
            "operators"
        )
    return outputs_of(given, call.only)


def active_dropout(sides: Sides) -> str:
    """Which side drops numbers at random, in words; empty where neither does."""
    for side, function in (("candidate", sides.candidate), ("reference", sides.reference)):
        modules = function.named_modules() if isinstance(function, torch.nn.Module) else ()
        for name, module in modules:
            if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
                return f"the {side} is in train mode, with dropout of {module.p:g} at {name or 'itself'}"
    return ""


def _of_halves(reference: Callable[..., Any], call: Call) -> bool:
    """Whether the reference itself is of float16 or bfloat16: its weights, or what it is given."""
    weights = reference.parameters() if isinstance(reference, torch.nn.Module) else ()
    return any(tensor.dtype in _HALVES for tensor in [*weights, *tensors_of((call.inputs, dict(call.keywords)))])


class _Reordered(OtherSummation):
    """Sums in another order, but term by term only where that is quick. quick: how many sums it is quick for."""

    def __init__(self, order: int) -> None:
        super().__init__(order)
        self.quick = 0

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rows = max(x.numel() // x.shape[-1], _FEWEST_ROWS)
        if not self._is_quick(rows * weight.numel()):
            return functional.linear(x, weight, bias)
        return super()._linear(x, weight, bias)

    def _matmul(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if not self._is_quick(one.numel() * other.shape[-1]):
            return torch.matmul(one, other)
        return super()._matmul(one, other)

    def _sum(self, x: torch.Tensor) -> torch.Tensor:
        self.quick += 1
        return super()._sum(x)

    def _is_quick(self, products: int) -> bool:
        """In pieces, everything is."""
        quick = products <= _TERM_BY_TERM
        self.quick += quick
        return quick or not self.device


class _Unfused(Intercept):
    """Fused attention is its definition, whose sums have an order that can be changed."""

    def called(self, call: TorchCall) -> Any:
        if call.func is not functional.scaled_dot_product_attention:
            return call.func(*call.args, **call.kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        given: dict[str, Any] = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
        mask = given.get("attn_mask")
        if given.get("dropout_p") or given["query"].dim() != 4:
            return call.func(*call.args, **call.kwargs)
        if mask is not None and mask.dtype == torch.bool:
            given["attn_mask"] = torch.zeros_like(mask, dtype=given["query"].dtype).masked_fill(~mask, -math.inf)
        value = given["value"]
        if given.get("enable_gqa"):
            value = value.repeat_interleave(given["query"].shape[1] // value.shape[1], dim=1)
        return torch.matmul(probabilities(**given), value)


class _Narrow(Intercept):
    """Every float32 tensor is rounded to a narrow type before it is used."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def called(self, call: TorchCall) -> Any:
        if getattr(call.func, "__name__", "") == "__get__":
            return call.func(*call.args, **call.kwargs)
        return call.func(*mapped(call.args, self._rounded), **mapped(dict(call.kwargs), self._rounded))

    def _rounded(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws as from a fresh start, and none of them taken from whoever draws next."""
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % (1 << 32))
        try:
            yield
        finally:
            np.random.set_state(state)


@contextmanager
def _undone(function: Any) -> Iterator[None]:
    """What a module holds afterwards is what it held: one run is not to see what another left.

    Its attributes and the numbers in its buffers are put back; what is within a list of its own is not.
    """
    module = function if isinstance(function, torch.nn.Module) else getattr(function, "__self__", None)
    modules = list(module.modules()) if isinstance(module, torch.nn.Module) else []
    attributes = [(part, {key: _copied(value) for key, value in vars(part).items()}) for part in modules]
    buffers = [(one, one._version, one.detach().clone()) for part in modules for one in part.buffers(recurse=False)]
    try:
        yield
    finally:
        for part, before in attributes:
            vars(part).clear()
            vars(part).update(before)
        with torch.no_grad():
            for buffer, version, numbers in buffers:
                if buffer._version != version:
                    buffer.copy_(numbers)


def _copied(value: Any) -> Any:
    """The dicts in which a module keeps its buffers, parameters and parts are changed in place."""
    return value.copy() if type(value) is dict else value


def mapped(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Every tensor, array or number within tuples, lists and dicts, as `convert` makes it."""
    if isinstance(value, dict):
        return {key: mapped(item, convert) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, convert) for item in value))
    if type(value) in (tuple, list):
        return type(value)(mapped(item, convert) for item in value)
    return convert(value)


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    found: list[torch.Tensor] = []
    mapped(value, lambda item: found.append(item) if isinstance(item, torch.Tensor) else None)
    yield from found


def as_tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _as_array(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy().copy()
    return value.copy() if isinstance(value, np.ndarray) else value
