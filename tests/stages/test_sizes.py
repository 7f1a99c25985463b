"""The sizes that `edge-parity list` reads off the declarations are those of the models that transformers builds."""

from __future__ import annotations

from pathlib import Path

import pytest
from generative import generative

from harness.spec.find import describe
from harness.spec.load import load_spec
from harness.spec.sizes import published_parameters

MODELS = sorted(name for name, ref in generative().items() if published_parameters(ref) is not None)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_size_read_as_text_is_that_of_the_model_that_transformers_builds(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ref = generative()[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_spec(ref).published())
    actual = sum(parameter.numel() for parameter in model.parameters())
    assert published_parameters(ref) == pytest.approx(actual, rel=0.005)


def test_a_size_that_is_no_literal_is_unknown_and_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "spec.py"
    file.write_text("SIZES = {}\nA = GenerativeModel(name='a', published=lambda: LlamaConfig(**SIZES))\n")
    (ref,) = describe(file)
    assert published_parameters(ref) is None
