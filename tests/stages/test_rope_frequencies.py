"""Frequencies of the rotary embedding are rounded to the other side while a noise sample runs, and put back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.stages.huggingface.frequencies import other_side, rounded_otherwise

pytestmark = pytest.mark.miniature
EXPONENTS = np.arange(0, 64, 2) / 64


class Rotary(torch.nn.Module):
    """Made of a config, as those of transformers are. Layers may have frequencies of their own, by kind."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        steps = torch.arange(0, 64, 2, dtype=torch.float32) / 64
        self.register_buffer("inv_freq", 1.0 / (config["base"] ** steps))
        self.register_buffer("sliding_attention_inv_freq", 1.0 / (10.0**steps))
        self.register_buffer("scale", torch.ones(3))


class Unknown(Rotary):
    """Nobody knows how to make one."""

    def __init__(self) -> None:
        super().__init__({"base": 10000.0})
        del self.config


@pytest.mark.parametrize("name", ["inv_freq", "sliding_attention_inv_freq"])
def test_each_frequency_is_rounded_to_the_other_side_within_and_as_it_was_after(name: str) -> None:
    network = torch.nn.ModuleDict({"rotary": Rotary({"base": 10000.0})})
    before = getattr(network["rotary"], name).clone()
    with rounded_otherwise(network) as found:
        inside = getattr(network["rotary"], name).clone()
        assert torch.equal(network["rotary"].scale, torch.ones(3))
    assert found == 2
    assert torch.equal(getattr(network["rotary"], name), before)
    true = (10000.0 if name == "inv_freq" else 10.0) ** -EXPONENTS
    one, other = before.double().numpy() - true, inside.double().numpy() - true
    assert inside[0] == before[0] == 1, "float32 holds it as it is"
    assert (one[1:] * other[1:] < 0).all(), "on both sides of the true one"
    step = np.spacing(true.astype(np.float32)).astype(np.float64)
    assert (np.abs(other) < step).all()


def test_a_number_that_is_off_by_more_than_a_step_is_rounded_as_others_are() -> None:
    true = torch.tensor([0.3], dtype=torch.float64)
    for value in (0.29, 0.31):
        (other,) = other_side(torch.tensor([value]), true)
        assert 0 < (other.item() - 0.3) * (0.3 - value) / abs(value - 0.3) < 2**-25


@pytest.mark.parametrize("whole_step", [False, True])
def test_far_out_and_where_the_true_ones_are_not_known_each_is_one_step_off(whole_step: bool) -> None:
    network = torch.nn.ModuleDict({"rotary": Rotary({"base": 10000.0}) if whole_step else Unknown()})
    before = network["rotary"].inv_freq.clone()
    with rounded_otherwise(network, whole_step=whole_step):
        inside = network["rotary"].inv_freq.clone()
    steps = inside.view(torch.int32) - before.view(torch.int32)
    assert steps[0::2].tolist() == [1] * 16
    assert steps[1::2].tolist() == [-1] * 16
    assert torch.equal(network["rotary"].inv_freq, before)


def test_frequencies_are_put_back_where_the_run_breaks_off() -> None:
    network = torch.nn.ModuleDict({"rotary": Rotary({"base": 10000.0})})
    before = network["rotary"].inv_freq.clone()
    with pytest.raises(KeyError), rounded_otherwise(network):
        raise KeyError("broken off")
    assert torch.equal(network["rotary"].inv_freq, before)
