"""A map that calls modules by other names than what they do is at fault itself, and is told from the module."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from generative import generative_main

from harness.audit.named_roles import wrong_names
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel

pytestmark = pytest.mark.slow


def renamed(model: GenerativeModel, **entries: str) -> GenerativeModel:
    """entries: -> the entry whose module it names instead."""
    names: Any = model.tensor_names
    changed = {entry: getattr(names, other) for entry, other in entries.items()}
    return dataclasses.replace(model, tensor_names=dataclasses.replace(names, **changed))


def swapped(model: GenerativeModel, one: str, other: str) -> GenerativeModel:
    return renamed(model, **{one: other, other: one})


@pytest.mark.parametrize("name", sorted(generative_main()))
def test_the_maps_of_the_examples_are_right(name: str) -> None:
    assert wrong_names(load_spec(find_spec(name))) == []


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        pytest.param(name, one, other, marks=[] if quick else [pytest.mark.slow])
        for name, one, other, quick in [
            ("tiny_llama", "pre_attn_norm", "post_attn_norm", True),
            ("tiny_llama", "ff_gate_proj", "ff_up_proj", True),
            ("phi2", "attn_key_proj", "attn_value_proj", True),
            ("phi2", "attn_query_proj", "attn_key_proj", False),
            ("qwen3", "attn_query_norm", "attn_key_norm", True),
            ("gemma3", "attn_query_norm", "attn_key_norm", False),
            ("gemma2", "post_attn_norm", "pre_ff_norm", False),
            ("gemma2", "pre_ff_norm", "post_ff_norm", False),
            ("falcon", "pre_attn_norm", "post_attn_norm", False),
            ("openelm", "pre_attn_norm", "pre_ff_norm", False),
        ]
    ],
)
def test_two_names_that_are_swapped_are_the_maps_fault(name: str, one: str, other: str) -> None:
    (wrong,) = wrong_names(swapped(load_spec(find_spec(name)), one, other))
    assert one in wrong
    assert other in wrong
    assert wrong.endswith("the two are swapped")


def test_a_module_that_two_entries_name_is_the_maps_fault() -> None:
    model = load_spec(find_spec("tiny_llama"))
    (wrong,) = wrong_names(renamed(model, post_attn_norm="pre_attn_norm"))
    assert wrong.startswith("pre_attn_norm and post_attn_norm both name model.layers.{}.input_layernorm")
    (wrong,) = wrong_names(renamed(model, lm_head="embedding"))
    assert "embedding" in wrong
    assert "lm_head" in wrong


def test_a_name_that_no_module_has_is_no_swap() -> None:
    """The audit by key names what is missing; nothing is known of what the module would do."""
    model = load_spec(find_spec("tiny_llama"))
    names = dataclasses.replace(model.tensor_names, pre_attn_norm="model.layers.{}.norm_of_another_model")
    assert wrong_names(dataclasses.replace(model, tensor_names=names)) == []
