"""A checkpoint as it is published says no more than the same weights in float32: half precision, shards, leftovers.

Every model, as a folder of a miniature's sizes in the forms that real ones have. Nothing runs but what prepares and
audits a run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from generative import generative_main
from marks import further_but

from harness.audit.audit import audit_configs
from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel
from harness.spec.route import route_of
from harness.stages.litert_torch.config import reauthored_config
from harness.stages.litert_torch.keys import account_for_keys
from harness.store.cache import Cache
from harness.weights.configs import hf_config
from harness.weights.families import sizes_of
from harness.weights.miniature import write_miniature
from harness.weights.sources import is_miniature, resolve

pytestmark = pytest.mark.slow

# What a float32 checkpoint is told as well, whatever it is stored in.
KNOWN = {"falcon": {("error", "alibi")}}
LENGTH = ("warning", "max_length")


def published_form(model: GenerativeModel, folder: Path, dtype: str) -> Path:
    """The model's miniature in a half, in two shards, with what lies beside and inside real checkpoints."""
    import torch
    from safetensors.torch import load_file, save_file

    write_miniature(model, 0, folder)
    single = folder / "model.safetensors"
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(single).items()}
    single.unlink()
    layer = next(name for name in tensors if ".0." in name).partition(".0.")[0]
    tensors[f"{layer}.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    tensors["rope.freqs"] = torch.ones(8)
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, held in parts.items() for name in held}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    config |= {"dtype": dtype, "torch_dtype": dtype, "use_cache": True, "_name_or_path": "org/model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "eos_token_id": [1, 106]}))
    (folder / "README.md").write_text("a card")
    (folder / "original").mkdir()
    return folder


def findings(model: GenerativeModel, folder: Path, cache: Cache) -> list[Finding]:
    checkpoint = resolve(model, checkpoint=str(folder), miniature=False, seed=0, cache=cache)
    assert checkpoint.folder == folder
    assert is_miniature(model, checkpoint)
    published = hf_config(folder)
    layers = sizes_of(published).layers
    own = reauthored_config(model, miniature=True, layers=layers)
    return [
        *account_for_keys(model, folder, own, checkpoint.dropped),
        *audit_configs(route_of(model).at_sizes(model, miniature=True, layers=layers), published),
    ]


def told(found: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.severity, finding.field or finding.what) for finding in found}


def rounded(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.code == FindingCode.FIELD_ROUNDED]


@pytest.mark.parametrize("name", sorted(generative_main()))
@pytest.mark.parametrize("dtype", further_but(["bfloat16"], ["bfloat16", "float16"]))
def test_a_published_form_says_nothing_that_float32_does_not(name: str, dtype: str, tmp_path: Path) -> None:
    model = load_spec(find_spec(name))
    found = findings(model, published_form(model, tmp_path / "model", dtype), Cache(tmp_path / "cache"))
    remarks = rounded(found)
    assert told([finding for finding in found if finding not in remarks]) - {LENGTH} == KNOWN.get(name, set())
    assert {(finding.severity, finding.field) for finding in remarks} <= {("warning", "embedding_scale")}


def test_what_a_saved_config_asks_of_each_forward_is_not_asked(tmp_path: Path) -> None:
    """Attention that is listened to returns no probabilities: transformers refuses to build it where they are asked."""
    import torch

    from harness.stages.huggingface.stage import load

    folder = published_form(load_spec(find_spec("tiny_llama")), tmp_path / "model", "float32")
    config = json.loads((folder / "config.json").read_text())
    asked = {"output_attentions": True, "output_hidden_states": True, "return_dict": False}
    (folder / "config.json").write_text(json.dumps(config | asked))
    output = load(folder, torch.float32)(torch.tensor([[1, 2]]))
    assert output.logits.shape[:2] == (1, 2)
    assert output.attentions is output.hidden_states is None


@pytest.mark.parametrize(("dtype", "rounds_to"), [("bfloat16", "45.25"), ("float16", "45.25")])
def test_what_a_half_would_round_is_said_and_is_no_error(dtype: str, rounds_to: str) -> None:
    """Gemma multiplies its embeddings by the root of 2,048, which is 45.25483 in float32."""
    model = load_spec(find_spec("gemma1"))
    config: Any = model.published()
    config.dtype = dtype
    (remark,) = audit_configs(model, config)
    assert (remark.severity, remark.field) == ("warning", "embedding_scale")
    assert all(part in remark.what for part in ("45.25483 in float32", dtype, f"rounds it to {rounds_to}"))


def test_a_scale_that_is_wrong_is_an_error_in_a_half_too() -> None:
    import copy
    import dataclasses

    model = load_spec(find_spec("gemma1"))
    own: Any = copy.deepcopy(model.config())
    own.embedding_scale = 45.25  # what bfloat16 makes of it
    config: Any = model.published()
    config.dtype = "bfloat16"
    wrong = dataclasses.replace(model, config=lambda: copy.deepcopy(own))
    errors = [finding for finding in audit_configs(wrong, config) if finding.severity == "error"]
    assert [(finding.published, finding.reauthored) for finding in errors] == [("45.25483", "45.25")]
