"""No tensor of a checkpoint is lost, and none of the model's is made up, without a finding that names it."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel
from harness.stages.litert_torch.keys import account_for_keys
from harness.stages.litert_torch.loading import load_reauthored
from harness.stages.litert_torch.miniature import shrink
from harness.weights.miniature import write_miniature

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["tiny_llama", "smollm2"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[GenerativeModel, Path]:
    return made(request.param, tmp_path_factory.mktemp("miniature"))


@pytest.fixture
def separate(tmp_path: Path) -> tuple[GenerativeModel, Path]:
    """A model with an lm_head of its own."""
    return made("tiny_llama", tmp_path)


@pytest.fixture
def tied(tmp_path: Path) -> tuple[GenerativeModel, Path]:
    """A model whose lm_head is its embedding."""
    return made("smollm2", tmp_path)


def made(name: str, folder: Path) -> tuple[GenerativeModel, Path]:
    model = load_spec(find_spec(name))
    write_miniature(model, 0, folder)
    return model, folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def account(model: GenerativeModel, folder: Path, change: Callable[[Any], Any] = lambda config: None) -> list[Finding]:
    config = shrink(model)[1]
    change(config)
    return account_for_keys(model, folder, config)


def named_differently(model: GenerativeModel, **names: str | None) -> GenerativeModel:
    tensor_names = copy.copy(model.tensor_names)
    for field, value in names.items():
        setattr(tensor_names, field, value)
    return dataclasses.replace(model, tensor_names=tensor_names)


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    assert findings[0].kind == "weights"
    return findings[0]


def test_a_faithful_checkpoint_has_no_findings(either: tuple[GenerativeModel, Path]) -> None:
    assert account(*either) == []


def test_an_extra_key_is_an_error_that_names_it(either: tuple[GenerativeModel, Path], tmp_path: Path) -> None:
    import torch

    model, folder = either[0], Path(shutil.copytree(either[1], tmp_path / "copy"))
    rewrite(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(1024)}))
    finding = only(account(model, folder))
    assert finding.severity == "error"
    assert "model.layers.0.self_attn.q_proj.bias" in finding.what


def test_a_missing_key_is_an_error_that_names_it(either: tuple[GenerativeModel, Path], tmp_path: Path) -> None:
    model, folder = either[0], Path(shutil.copytree(either[1], tmp_path / "copy"))
    lost = ["model.layers.0.self_attn.k_proj.weight", "model.layers.1.input_layernorm.weight"]
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in lost])
    findings = account(model, folder)
    assert [finding.severity for finding in findings] == ["error", "error"]
    assert sorted(name for name in lost for finding in findings if name in finding.what) == lost
    with pytest.raises(UsageError, match=r"lacks model\.layers\.0\.self_attn\.k_proj\.weight"):
        load_reauthored(model, folder, shrink(model)[1], 64)


def test_a_norm_that_tensor_names_forget_is_an_error(tied: tuple[GenerativeModel, Path]) -> None:
    findings = account(named_differently(tied[0], final_norm=None), tied[1])
    assert sorted(finding.severity for finding in findings) == ["error", "error"]
    lost, default = findings
    assert (lost.code, lost.key, lost.parameter) == (FindingCode.KEY_NOT_LOADED, "model.norm.weight", "")
    assert (default.code, default.parameter) == (FindingCode.PARAMETER_NOT_LOADED, "final_norm.weight")
    assert "model.norm.weight of the checkpoint is loaded nowhere" in findings[0].what
    assert "final_norm.weight of the re-authored model receives no value" in findings[1].what


def test_a_value_without_a_place_in_the_model_is_an_error(tied: tuple[GenerativeModel, Path]) -> None:
    import torch

    model, folder = tied
    rewrite(folder, lambda tensors: tensors.update({"model.norm.bias": torch.zeros(192)}))
    finding = only(account(model, folder))
    assert finding.severity == "error"
    assert (finding.code, finding.key) == (FindingCode.KEY_WITHOUT_PLACE, "model.norm.bias")
    assert "model.norm.bias (to final_norm.bias)" in finding.what


def test_a_shape_that_does_not_fit_names_tensor_and_both_shapes(separate: tuple[GenerativeModel, Path]) -> None:
    model, folder = separate
    finding = only(account(model, folder, lambda config: setattr(config, "vocab_size", 500))[:1])
    assert finding.severity == "error"
    for part in ("model.embed_tokens.weight", "[512, 128]", "[500, 128]"):
        assert part in finding.what
    config = shrink(model)[1]
    config.vocab_size = 500
    with pytest.raises(UsageError, match=r"\[512, 128\].*\[500, 128\]"):
        load_reauthored(model, folder, config, 64)


def test_tables_that_every_model_computes_are_no_finding(separate: tuple[GenerativeModel, Path]) -> None:
    import torch

    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(separate[1], lambda tensors: tensors.update({name: torch.ones(32)}))
    assert account(*separate) == []


def test_naming_lm_head_for_a_tied_checkpoint_is_an_error_with_the_reason(tied: tuple[GenerativeModel, Path]) -> None:
    finding = only(account(named_differently(tied[0], lm_head="lm_head"), tied[1]))
    assert finding.severity == "error"
    assert "lm_head.weight" in finding.what
    assert "ties" in finding.what


def test_tying_that_drops_a_head_of_its_own_is_an_error(separate: tuple[GenerativeModel, Path]) -> None:
    model = named_differently(separate[0], lm_head=None)
    finding = only(
        account(model, separate[1], lambda config: setattr(config, "lm_head_share_weight_with_embedding", True))
    )
    assert finding.severity == "error"
    assert "lm_head.weight of the checkpoint is dropped" in finding.what


def test_a_stored_head_beside_a_tied_embedding_is_judged_by_its_values(tied: tuple[GenerativeModel, Path]) -> None:
    model, folder = tied
    embedding = "model.embed_tokens.weight"
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[embedding].clone()}))
    assert account(model, folder) == []
    set_config(folder, tie_word_embeddings=False)
    assert only(account(model, folder)).severity == "warning"
    # transformers keeps differing matrices apart even where the config ties them.
    set_config(folder, tie_word_embeddings=True)
    rewrite(folder, lambda tensors: tensors["lm_head.weight"].add_(1e-3))
    assert only(account(model, folder)).severity == "error"


def test_a_head_that_overwrites_the_embedding_it_is_tied_to_is_an_error(separate: tuple[GenerativeModel, Path]) -> None:
    finding = only(account(*separate, lambda config: setattr(config, "lm_head_share_weight_with_embedding", True)))
    assert finding.severity == "error"
    assert "lm_head.weight overwrites model.embed_tokens.weight" in finding.what


def test_names_the_loader_cannot_use_are_an_error(separate: tuple[GenerativeModel, Path]) -> None:
    model = named_differently(separate[0], ff_up_proj=None)
    finding = only(account(model, separate[1]))
    assert "loader fails" in finding.what
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_reauthored(model, separate[1], shrink(model)[1], 64)


def theirs(model: GenerativeModel, folder: Path, config: Any) -> Any:
    from litert_torch.generative.utilities.model_builder import build_decoder_only_model

    return build_decoder_only_model(str(folder), config, model.tensor_names, model.model_class, mask_cache_size=64)


def same_bits(one: Any, two: Any) -> bool:
    import torch

    left, right = one.state_dict(), two.state_dict()
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def test_loading_equals_litert_torchs_own_builder_bit_for_bit(either: tuple[GenerativeModel, Path]) -> None:
    import torch

    model, folder = either
    config = shrink(model)[1]
    ours, reference = load_reauthored(model, folder, config, 64), theirs(model, folder, config)
    assert same_bits(ours, reference)
    assert torch.equal(ours.mask_cache, reference.mask_cache)
    assert not ours.training
    tied_storage = ours.lm_head.weight.data_ptr() == ours.tok_embedding.weight.data_ptr()
    assert tied_storage == (reference.lm_head.weight.data_ptr() == reference.tok_embedding.weight.data_ptr())


def test_half_precision_weights_load_as_float32_with_the_same_values(separate: tuple[GenerativeModel, Path]) -> None:
    import torch

    model, folder = separate
    rewrite(folder, lambda tensors: tensors.update({name: value.bfloat16() for name, value in tensors.items()}))
    config = shrink(model)[1]
    ours = load_reauthored(model, folder, config, 64)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert same_bits(ours, theirs(model, folder, config))


def test_parameters_without_a_value_keep_what_the_builder_gives_them(tied: tuple[GenerativeModel, Path]) -> None:
    model, folder = named_differently(tied[0], final_norm=None), tied[1]
    config = shrink(model)[1]
    assert same_bits(load_reauthored(model, folder, config, 64), theirs(model, folder, config))


def test_a_head_that_overwrites_loads_as_the_builder_does_it(separate: tuple[GenerativeModel, Path]) -> None:
    model, folder = separate
    config = shrink(model)[1]
    config.lm_head_share_weight_with_embedding = True
    assert same_bits(load_reauthored(model, folder, config, 64), theirs(model, folder, config))
