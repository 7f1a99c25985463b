"""Frequencies of the rotary embedding are moved by one step of float32 while a noise sample runs, and put back."""

from __future__ import annotations

import pytest
import torch

from harness.stages.huggingface.frequencies import rounded_otherwise

pytestmark = pytest.mark.miniature


class Rotary(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** -(torch.arange(0, 64, 2) / 64))
        self.register_buffer("scale", torch.ones(3))


def test_each_frequency_is_one_step_off_within_and_as_it_was_after():
    network = torch.nn.ModuleDict({"rotary": Rotary()})
    before = network["rotary"].inv_freq.clone()
    with rounded_otherwise(network) as found:
        inside = network["rotary"].inv_freq.clone()
        assert torch.equal(network["rotary"].scale, torch.ones(3))
    steps = inside.view(torch.int32) - before.view(torch.int32)
    assert found == 1
    assert steps[0::2].tolist() == [1] * 16
    assert steps[1::2].tolist() == [-1] * 16
    assert torch.equal(network["rotary"].inv_freq, before)


def test_frequencies_are_put_back_where_the_run_breaks_off():
    network = torch.nn.ModuleDict({"rotary": Rotary()})
    before = network["rotary"].inv_freq.clone()
    with pytest.raises(KeyError), rounded_otherwise(network):
        raise KeyError("broken off")
    assert torch.equal(network["rotary"].inv_freq, before)
