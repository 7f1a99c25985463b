"""The first layers of a model at full width: nothing but the number of blocks is another one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from generative import generative_main
from safetensors.torch import load_file

from harness.audit.published import build_published
from harness.errors import UsageError
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.stages.litert_torch.config import reauthored_config
from harness.stages.litert_torch.full_config import built_model, full_reauthored_config
from harness.stages.litert_torch.keys import account_for_published_keys
from harness.stages.torch.summation import DEVICE, OtherSummation
from harness.weights.configs import hf_config, published_config
from harness.weights.families import sizes_of
from harness.weights.files import WEIGHTS_FILE, stored_tensors
from harness.weights.first_layers import first_layers_published, write_first_layers
from harness.weights.miniature import write_miniature
from harness.weights.published_names import read_folder

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", sorted(generative_main()))
def test_both_configs_keep_every_size_but_the_number_of_layers(name: str) -> None:
    model = load_spec(find_spec(name))
    whole, published = published_config(model), first_layers_published(model, 2)
    for layer in range(2):
        assert sizes_of(published, layer) == dataclasses.replace(sizes_of(whole, layer), layers=2)
    full, config = full_reauthored_config(model), reauthored_config(model, miniature=False, layers=2)
    assert config.num_layers == 2
    assert all(config.block_config(block) == full.block_config(block) for block in range(2))
    same = dataclasses.replace(
        config, num_layers=full.num_layers, block_configs=full.block_configs, attention_patterns=full.attention_patterns
    )
    assert same == dataclasses.replace(full, build_rope=same.build_rope)


def test_the_first_layers_of_a_checkpoint_are_its_own_numbers(tmp_path: Path) -> None:
    whole, first = tmp_path / "whole", tmp_path / "first"
    whole.mkdir()
    first.mkdir()
    write_miniature(load_spec(find_spec("tiny_llama")), 0, whole, layers=4)
    (whole / "tokenizer.json").write_text("{}")
    write_first_layers(whole, 3, first)
    read_folder(first)
    before, after = load_file(whole / WEIGHTS_FILE), load_file(first / WEIGHTS_FILE)
    assert before.keys() - after.keys() == {name for name in before if name.startswith("model.layers.3.")}
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert (first / "tokenizer.json").read_text() == "{}"
    assert hf_config(first).num_hidden_layers == 3


def test_a_dtype_and_names_of_another_prefix_stay_as_they_are(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    whole, first = tmp_path / "whole", tmp_path / "first"
    whole.mkdir()
    first.mkdir()
    write_miniature(load_spec(find_spec("tiny_llama")), 0, whole, layers=4)
    halves = {f"text.{name}": tensor.bfloat16() for name, tensor in load_file(whole / WEIGHTS_FILE).items()}
    save_file(halves, whole / WEIGHTS_FILE)
    write_first_layers(whole, 1, first)
    kept = stored_tensors(first)
    assert {tensor.dtype for tensor in kept.values()} == {"BF16"}
    assert [name for name in kept if ".layers." in name and ".layers.0." not in name] == []
    assert "text.model.embed_tokens.weight" in kept
    assert len(kept) == 3 + 9


def test_more_layers_than_the_checkpoint_has_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    write_miniature(load_spec(find_spec("tiny_llama")), 0, whole)
    with pytest.raises(UsageError, match=r"--layers 3: .*whole has 2 layers; give at most as many"):
        write_first_layers(whole, 3, tmp_path)


def error(made: torch.Tensor, exact: torch.Tensor) -> float:
    return float((made.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("terms", [576, 2048, 5632])
def test_one_of_the_float32_runs_is_as_far_off_as_a_kernel_that_adds_term_by_term(terms: int) -> None:
    """Against a loop that nobody could take for anything else."""
    generator = torch.Generator().manual_seed(terms)
    x, weight = torch.randn(33, terms, generator=generator), torch.randn(70, terms, generator=generator)
    exact = x.double() @ weight.double().T
    loop = torch.zeros(33, 70)
    for term in range(terms):
        loop += x[:, term : term + 1] * weight[:, term]
    with OtherSummation(DEVICE):
        made = torch.nn.functional.linear(x, weight)
    assert 0.8 < error(made, exact) / error(loop, exact) < 1.2
    assert error(made, exact) > 1.2 * error(torch.nn.functional.linear(x, weight), exact)


def test_every_reduction_of_that_run_adds_term_by_term() -> None:
    """Products of attention, norms and softmax too: what torch gives is nearer to the truth at each."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 3, 12, 1024, generator=generator) for _ in range(2))
    x = torch.randn(9, 4096, generator=generator) + 3
    calls = {
        "matmul": (lambda a, b: a @ b.mT, (q, k)),
        "mean": (lambda a: a.pow(2).mean(-1, keepdim=True), (x,)),
        "softmax": (lambda a: torch.softmax(a * 0.1, dim=-1), (x,)),
        "layer norm": (lambda a: torch.nn.functional.layer_norm(a, (4096,)), (x,)),
    }
    for name, (call, given) in calls.items():
        exact = call(*(each.double() for each in given))
        with OtherSummation(DEVICE):
            made = call(*given)
        assert made.shape == exact.shape
        assert error(call(*given), exact) < error(made, exact) < 1e-4, name


@pytest.mark.parametrize("order", [1, DEVICE])
def test_another_order_changes_nothing_but_rounding(order: int) -> None:
    """On odd shapes: one row, fewer columns than a register holds, groups of heads, a leading axis."""
    generator = torch.Generator().manual_seed(1)
    for rows, terms, columns in ((1, 7, 1), (5, 64, 65), (17, 1, 130), (40, 129, 64)):
        x = torch.randn(2, rows, terms, generator=generator)
        weight, bias = torch.randn(columns, terms, generator=generator), torch.randn(columns, generator=generator)
        peaked = x.clone()
        peaked[:, 0, 0] = 1e4
        for given in (x, peaked):
            with OtherSummation(order):
                made = torch.nn.functional.linear(given, weight, bias)
                scores = torch.matmul(given[:, None], weight.T[None, None])
            assert torch.allclose(made, torch.nn.functional.linear(given, weight, bias), rtol=1e-4, atol=1e-4)
            assert torch.allclose(scores[:, 0], given @ weight.T, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("field", ["config", "published"])
def test_a_factory_that_gives_no_config_is_named(field: str) -> None:
    wrong = dataclasses.replace(load_spec(find_spec("tiny_llama")), **{field: lambda: None})
    with pytest.raises(UsageError, match=f"'{field}' gives NoneType, not a .*; fix the model's spec file"):
        (full_reauthored_config if field == "config" else published_config)(wrong)


def test_a_class_that_cannot_be_built_is_named_by_a_run_and_by_an_audit() -> None:
    def broken(config: object, mask_cache_size: int) -> object:
        raise RuntimeError("no such layer\nand more")

    wrong = dataclasses.replace(load_spec(find_spec("tiny_llama")), model_class=broken)
    config = full_reauthored_config(wrong)
    says = r"'model_class' cannot be built as model_class\(config, mask_cache_size\): RuntimeError: no such layer; fix"
    with pytest.raises(UsageError, match=says):
        built_model(wrong, config)
    with pytest.raises(UsageError, match=says):  # what an audit without weights looks at
        account_for_published_keys(wrong, build_published(published_config(wrong)), config)
