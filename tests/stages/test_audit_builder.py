"""An example's own builder is called with a checkpoint that lacks a key: one that says nothing is found, no other."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from generative import generative
from paths import ROOT

from harness.audit.published import build_published
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel
from harness.stages.litert_torch.builder import audit_builder, builder_of
from harness.weights.configs import published_config

pytestmark = pytest.mark.slow

SILENT = {"gemma2": "build_2b_model", "gemma3": "build_model_1b", "gemma3_270m": "build_model_270m"}


def audited(name: str) -> tuple[GenerativeModel, Any]:
    model = load_spec(find_spec(name))
    return model, build_published(published_config(model))


@pytest.mark.parametrize("name", sorted(generative()))
def test_builders_that_swallow_a_lacking_key_are_found_and_no_others(name: str) -> None:
    model, network = audited(name)
    assert builder_of(model.config) is not None
    findings = audit_builder(model, network)
    assert [finding.severity for finding in findings] == ["warning"] * (name in SILENT)
    for finding in findings:
        assert f"{SILENT[name]} returns None for a checkpoint that lacks model.layers." in finding.what


def test_a_builder_that_raises_does_so_for_the_lacking_key() -> None:
    """With every key there, the same call builds: so nothing else makes it raise."""
    model, network = audited("tiny_llama")
    assert audit_builder(model, network) == []
    builder = builder_of(model.config)
    assert builder is not None
    import torch

    with torch.device("meta"):
        built = builder("", custom_loader=lambda _: dict(network.state_dict()))
        assert isinstance(built, model.model_class)
        lacking = dict(network.state_dict())
        del lacking["model.layers.21.mlp.down_proj.weight"]
        with pytest.raises(KeyError, match=r"layers\.21\.mlp\.down_proj"):
            builder("", custom_loader=lambda _: lacking)


BUILDERS = """
from litert_torch.generative.examples.tiny_llama import tiny_llama

def factory():
    return tiny_llama.get_model_config()

def build_model(checkpoint_path, custom_loader=None):
    config = factory()
    tensors = custom_loader(checkpoint_path)
"""


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("    return tiny_llama.TinyLlama(config)", "build_model builds a model from a checkpoint that lacks"),
        ("    return None", "build_model returns None for a checkpoint that lacks"),
        ("    return tensors['model.layers.21.mlp.down_proj.weight']", ""),
        ("    raise RuntimeError('Missing key')", ""),
        ("    return None\n\ndef build_other(checkpoint_path, custom_loader):\n    return factory()", ""),
    ],
    ids=["accepts", "none", "key-error", "other-error", "two-builders"],
)
def test_what_a_builder_answers_is_what_is_said(rest: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    module = ModuleType("example_with_a_builder")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(BUILDERS + rest, vars(module))
    model, network = audited("tiny_llama")
    findings = audit_builder(replace(model, config=module.factory), network)
    assert [says in finding.what for finding in findings] == [True] * bool(says)


def test_a_model_whose_config_has_no_builder_beside_it_is_left_alone() -> None:
    spec = ROOT / "suites" / "upstream" / "ignored_fields.py"
    assert builder_of(load_spec(find_spec(str(spec))).config) is None
    assert builder_of(lambda: None) is None
    assert builder_of(len) is None
