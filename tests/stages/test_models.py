"""Every registered model follows its published checkpoint, and its miniature's PyTorch hop is what it should be.

tests/faults/test_sweep.py takes more seeds, long inputs and the flatbuffers.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from generative import generative, generative_main
from litert_torch.generative.layers import attention_utils
from miniatures import EXAMPLES, LENGTHS, judged
from outcomes import passes

from harness.bench.outcome import Outcome
from harness.bench.workbench import FIRST, Bench
from harness.names.taps import block_tap

pytestmark = pytest.mark.slow

# transformers rounds Falcon's ALiBi slopes to bfloat16 and the example does not: a known defect.
RIGHT = sorted(EXAMPLES - {"falcon"})


def test_every_decoder_example_is_the_main_model_of_a_file() -> None:
    assert set(generative_main()) == EXAMPLES


@pytest.mark.parametrize("name", generative())
def test_a_model_cites_the_checkpoint_that_its_config_is_of(name: str) -> None:
    ref = generative()[name]
    assert f"# https://huggingface.co/{ref.declared['hf_id']}/blob/main/config.json" in ref.file.read_text()


@pytest.mark.parametrize("name", RIGHT)
def test_the_pytorch_hop_of_a_right_miniature_passes_with_every_tap(name: str, tmp_path: Path) -> None:
    outcome = judged(Bench(name, inputs=LENGTHS), tmp_path)
    assert passes(outcome), outcome.fault
    assert outcome.hops[FIRST].coverage == 1.0
    assert outcome.hops[FIRST].taps_missing == 0


def falcon_with_rounded_slopes(sharp: int | None, folder: Path) -> Outcome:
    """Falcon with ALiBi as transformers rounds it, in every block but `sharp`."""
    bench, calls = Bench("falcon", inputs=LENGTHS), itertools.count()
    shipped = attention_utils.build_alibi_bias

    def bias(n_heads: int, k_size: int, **rest: Any) -> torch.Tensor:
        exact = shipped(n_heads, k_size, **rest)
        if next(calls) % bench.prepared.dimensions.blocks == sharp:
            return exact
        slopes = exact[..., 1:2].bfloat16()
        return (slopes * torch.arange(k_size)).to(exact.dtype)

    with mock.patch.object(attention_utils, "build_alibi_bias", bias):
        return judged(bench, folder)


def test_falcon_fails_in_the_attention_of_every_block(tmp_path: Path) -> None:
    outcome = judged(Bench("falcon", inputs=LENGTHS), tmp_path / "shipped")
    assert outcome.fault is not None
    assert outcome.fault.tap == block_tap(0, "attn.probs")
    for block in range(2):
        alone = falcon_with_rounded_slopes(block, tmp_path / str(block))
        assert alone.fault is not None
        assert alone.fault.tap == block_tap(block, "attn.probs")


def test_falcon_passes_with_its_slopes_rounded_as_transformers_rounds_them(tmp_path: Path) -> None:
    outcome = falcon_with_rounded_slopes(None, tmp_path)
    assert passes(outcome), outcome.fault
    assert outcome.hops[FIRST].coverage == 1.0
