"""Faults of kernels that run a quantised file: they compute something else with the right numbers.

The fake-quantised stage computes what the kernels of such a runtime would, and its values stand for the runtime's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from harness.bench.mistake import Kernel, Mistake
from harness.names.stages import FAKEQUANT, XNNPACK, named
from harness.stages.litert_torch import fakequant
from harness.stages.torch import fake_quantised
from harness.stages.torch.fake_quantised import LayerNumbers, RowGrid, Rows, rows_around_zero, rows_from_least
from harness.system.attributes import set_within

Linear = Callable[[torch.Tensor, LayerNumbers, torch.Tensor | None, RowGrid], torch.Tensor]
_INT16 = 1 << 15


def computing(linear: Linear) -> Callable[[], AbstractContextManager[None]]:
    """Layers with quantised inputs by other kernels."""
    return lambda: set_within(fakequant, "linear", linear)


def exact(total: torch.Tensor) -> torch.Tensor:
    return total


def other(
    quantised: Callable[[torch.Tensor], Rows] = rows_from_least,
    added: Callable[[torch.Tensor], torch.Tensor] = exact,
) -> Linear:
    """Kernels for weights with a scale for each channel.

    quantised: makes whole numbers of the rows of an input. added: gets the exact sums of products, in float64.
    """

    def linear(x: torch.Tensor, numbers: LayerNumbers, bias: torch.Tensor | None, rows: RowGrid) -> torch.Tensor:
        if rows is RowGrid.NONE or numbers.scale is None:
            return fake_quantised.linear(x, numbers, bias, rows)
        whole, step = quantised(x)
        total = added(numbers.times(whole)) * step.to(torch.float64) * numbers.scale
        return (total if bias is None else total + bias.to(torch.float64)).to(torch.float32)

    return linear


def giving(change: Callable[[torch.Tensor], torch.Tensor]) -> Linear:
    """Kernels whose result is something else. change: gets the right one, float32."""
    return lambda x, numbers, bias, rows: change(fake_quantised.linear(x, numbers, bias, rows))


def wrapped(total: torch.Tensor) -> torch.Tensor:
    return (total + _INT16) % (2 * _INT16) - _INT16


def saturated(total: torch.Tensor) -> torch.Tensor:
    return total.clamp(-_INT16, _INT16 - 1)


def truncated(x: torch.Tensor) -> Rows:
    """The same steps, each number rounded towards zero."""
    _, step = rows_from_least(x)
    return (x / step).trunc(), step


def one_step_for_all(x: torch.Tensor) -> Rows:
    """One range for all rows of the input, as kernels have it that know no rows."""
    whole, step = rows_from_least(x.reshape(1, -1))
    return whole.reshape(x.shape), step


def as_it_is(x: torch.Tensor) -> Rows:
    return x, torch.ones_like(x[..., :1])


def in_float16(result: torch.Tensor) -> torch.Tensor:
    return result.to(torch.float16).to(torch.float32)


def kernel(name: str, recipe: str, what: str, linear: Linear) -> Mistake:
    """Each of them acts in the first linear layer already."""
    site = Kernel(recipe, computing(linear))
    hop = f"{named(FAKEQUANT, recipe)}->{named(XNNPACK, recipe)}"
    return Mistake(
        name, "quantised runtime", "tiny_llama", f"{recipe}, kernels: {what}", site, hop, ("block.0.attn.q",)
    )


FAULTS = (
    kernel("adds-in-int16", "dynamic_int8", "sums wrap around at 2^15", other(added=wrapped)),
    kernel("saturates-in-int16", "dynamic_int8", "sums are cut off at 2^15", other(added=saturated)),
    kernel("inputs-truncated", "dynamic_int8", "inputs rounded towards zero", other(truncated)),
    kernel("inputs-around-zero", "dynamic_int8", "inputs on 255 steps around zero", other(rows_around_zero)),
    kernel("inputs-by-tensor", "dynamic_int8", "one range for all rows of an input", other(one_step_for_all)),
    kernel("inputs-not-quantised", "dynamic_int8", "inputs as they are", other(as_it_is)),
    kernel("results-in-float16", "dynamic_int8", "results rounded to float16", giving(in_float16)),
    kernel("results-in-float16-int4", "dynamic_int4_block32", "results rounded to float16", giving(in_float16)),
)
