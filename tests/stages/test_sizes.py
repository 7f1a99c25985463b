"""The sizes that `edge-parity list` reads off the declarations are those of the models that transformers builds."""

from __future__ import annotations

from pathlib import Path

import pytest
from generative import generative

from harness.spec.find import describe
from harness.spec.load import load_spec
from harness.spec.sizes import longest_declared, published_layers, published_parameters

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


@pytest.mark.slow
def test_lengths_and_layers_read_as_text_are_those_of_the_models() -> None:
    read: dict[str, tuple[int | None, int | None]] = {}
    actual: dict[str, tuple[int | None, int | None]] = {}
    for name, ref in generative().items():
        model = load_spec(ref)
        read[name] = length, layers = longest_declared(ref), published_layers(ref)
        found = model.config().max_seq_len, model.published().num_hidden_layers
        actual[name] = found[0] if length is not None else None, found[1] if layers is not None else None
    assert read == actual
    assert sum(length is not None for length, _ in read.values()) > len(read) / 2


def test_a_size_that_is_no_literal_is_unknown_and_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "spec.py"
    file.write_text("SIZES = {}\nA = GenerativeModel(name='a', published=lambda: LlamaConfig(**SIZES))\n")
    (ref,) = describe(file)
    assert published_parameters(ref) is None
