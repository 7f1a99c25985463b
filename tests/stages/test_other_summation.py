"""A further noise sample takes the sums of every projection in another order, however the model writes it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from harness.stages.torch.summation import DEVICE, OtherSummation

pytestmark = pytest.mark.miniature


@pytest.mark.parametrize("order", [1, DEVICE])
def test_a_projection_by_addmm_is_summed_as_a_linear_layer_is(order: int) -> None:
    """GPT-2's projections are `torch.addmm` with a weight `[in, out]`: left as they are, their noise would be the
    library's alone, and a right kernel that adds term by term would look wrong at 3,072 terms."""
    draw = torch.Generator().manual_seed(3)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((7, 3072), (3072, 40), (40,)))
    plain = torch.addmm(bias, x, weight)
    with OtherSummation(order):
        made, linear = torch.addmm(bias, x, weight), functional.linear(x, weight.T.contiguous(), bias)
    assert torch.equal(made, linear)
    assert not torch.equal(made, plain)
    exact = torch.addmm(bias.double(), x.double(), weight.double())
    assert float((made - exact).norm() / exact.norm()) < 1e-5
