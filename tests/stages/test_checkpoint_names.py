"""Where transformers loads a checkpoint, so do we, with the same numbers; where it would draw some, nothing is run.

The folders are written by transformers itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.spec.model import GenerativeModel
from harness.store.cache import Cache
from harness.weights.configs import hf_config
from harness.weights.files import stored_tensors
from harness.weights.published_names import read_folder
from harness.weights.sources import Checkpoint, resolve

pytestmark = pytest.mark.slow

Tensors = dict[str, Any]


def llama_config(**changes: Any) -> Any:
    from transformers import LlamaConfig

    sizes = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    return LlamaConfig(**{**sizes, **changes})


MODEL = GenerativeModel(
    name="llama", hf_id="org/llama", config=dict, model_class=object, tensor_names=None, published=llama_config
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(llama_config()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


def other(source: Path, folder: Path, change: Callable[[Tensors], Tensors], **config: Any) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    held = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(change(held), folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def resolved(folder: Path, cache: Cache) -> Checkpoint:
    return resolve(MODEL, checkpoint=str(folder), miniature=False, seed=0, cache=cache)


def logits(network: Any) -> Any:
    import torch

    with torch.no_grad():
        return network.eval()(torch.arange(1, 12).unsqueeze(0)).logits


def as_transformers_loads(folder: Path, kind: str = "CausalLM") -> Any:
    import torch
    import transformers

    factory = getattr(transformers, f"AutoModelFor{kind}")
    return logits(factory.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager"))


def as_the_stage_loads(checkpoint: Checkpoint) -> Any:
    import torch

    from harness.stages.huggingface import stage as hf

    return logits(hf.load(checkpoint.folder, torch.float32))


def renamed(change: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda held: {change(name): tensor for name, tensor in held.items()}


@pytest.mark.parametrize(
    "change",
    [lambda name: name.removeprefix("model."), lambda name: f"model.{name}"],
    ids=["a prefix too few", "a prefix too many"],
)
def test_names_that_transformers_takes_are_taken_and_give_the_same_numbers(
    written: Path, cache: Cache, tmp_path: Path, change: Callable[[str], str]
) -> None:
    import torch

    folder = other(written, tmp_path / "other", renamed(change))
    (folder / "tokenizer.json").write_text("{}")
    found = resolved(folder, cache)
    assert set(stored_tensors(found.folder)) == set(stored_tensors(written))
    assert (found.kind, found.name, found.dropped) == ("folder", str(folder), ())
    assert found.has_tokenizer
    assert torch.equal(as_the_stage_loads(found), as_transformers_loads(folder))
    assert torch.equal(as_the_stage_loads(found), as_transformers_loads(written))
    assert resolved(folder, cache) == found


def test_a_folder_with_the_models_own_names_is_used_as_it_is(written: Path, cache: Cache) -> None:
    found = resolved(written, cache)
    assert (found.folder, found.dropped) == (written, ())


def llava(folder: Path) -> str:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=5, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = LlavaConfig(vision_config=vision, text_config=llama_config(), image_token_index=95)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return "ImageTextToText"


def gemma3(folder: Path) -> str:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=95, boi_token_index=94,
        eoi_token_index=93, dtype="bfloat16",
    )  # fmt: skip
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    return "CausalLM"


def smolvlm(folder: Path) -> str:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = SmolVLMConfig(vision_config=vision, text_config=llama_config().to_dict(), image_token_id=95)
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    return "ImageTextToText"


@pytest.mark.parametrize(
    ("write", "kind"),
    [(llava, "llama"), (gemma3, "gemma3_text"), (smolvlm, "llama")],
    ids=("llava", "gemma3", "smolvlm"),
)
def test_the_language_model_inside_a_multimodal_one_gives_the_same_numbers(
    cache: Cache, tmp_path: Path, write: Callable[[Path], str], kind: str
) -> None:
    import torch

    purpose = write(tmp_path)
    found = resolved(tmp_path, cache)
    assert hf_config(found.folder).model_type == kind
    assert not [name for name in stored_tensors(found.folder) if "vision" in name]
    assert torch.equal(as_the_stage_loads(found), as_transformers_loads(tmp_path, purpose))


def test_a_multimodal_model_without_a_language_model_of_its_own_is_refused_in_one_line(tmp_path: Path) -> None:
    from transformers import Qwen2VLConfig

    config = Qwen2VLConfig(
        text_config={"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1},
        vision_config={"depth": 1},
    )
    config.save_pretrained(tmp_path)
    import torch
    from safetensors.torch import save_file

    save_file({"model.layers.0.w": torch.zeros(10, 10)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="no causal language model of type 'qwen2_vl_text'"):
        read_folder(tmp_path)


def lacking(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda held: {name: tensor for name, tensor in held.items() if not any(part in name for part in parts)}


def gemma_pytorch(held: Tensors) -> Tensors:
    """The names of Google's own release: fused q, k and v, and an embedder."""
    return {
        name.replace("model.embed_tokens", "embedder").replace("q_proj", "qkv_proj"): tensor
        for name, tensor in lacking("k_proj", "v_proj", "lm_head")(held).items()
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lacking("lm_head"), ["lack lm_head.weight", "does not tie", "tie_word_embeddings"]),
        (lacking("model.norm"), ["lack model.norm.weight", "at random"]),
        (lacking("down_proj"), ["lack model.layers.{0-2}.mlp.down_proj.weight", "at random"]),
        (lacking("layers.2."), ["3 layers, the weights have 2", "model.layers.2 is not there"]),
        (gemma_pytorch, ["lack", "model.embed_tokens.weight", "hold embedder.weight", "qkv_proj.weight"]),
        (renamed(lambda name: f"module.{name}"), ["begin with 'module.'", "save the model that is inside"]),
        (renamed(lambda name: f"_orig_mod.{name}"), ["begin with '_orig_mod.'"]),
        (renamed(lambda name: f"other.{name}.data"), ["no tensor of the weights"]),
    ],
    ids=["no head", "no norm", "no projections", "no layer", "gemma_pytorch", "module", "compiled", "another model"],
)  # fmt: skip
def test_what_transformers_would_draw_at_random_is_refused_by_name(
    written: Path, cache: Cache, tmp_path: Path, change: Callable[[Tensors], Tensors], said: list[str]
) -> None:
    folder = other(written, tmp_path / "other", change)
    with pytest.raises(UsageError) as caught:
        resolved(folder, cache)
    message = str(caught.value)
    assert all(part in message for part in said), message
    assert len(message) - len(str(folder)) < 500


def test_a_head_that_the_config_ties_need_not_be_stored(written: Path, tmp_path: Path) -> None:
    folder = other(written, tmp_path / "tied", lacking("lm_head"), tie_word_embeddings=True)
    assert read_folder(folder).as_stored


def test_a_reference_that_drew_numbers_at_random_does_not_run(written: Path, tmp_path: Path) -> None:
    """The stage looks by itself: between preparing and loading a file may have changed."""
    import torch

    from harness.stages.huggingface import stage as hf

    folder = other(written, tmp_path / "other", lacking("layers.1.mlp.up_proj", "model.norm"))
    with pytest.raises(UsageError, match=r"no values for model\.layers\.1\.mlp\.up_proj\.weight, model\.norm\.weight"):
        hf.load(folder, torch.float32)


def test_keys_that_transformers_leaves_out_are_kept_apart_and_tables_are_silent(written: Path, tmp_path: Path) -> None:
    import torch

    def extra(held: Tensors) -> Tensors:
        scales = {
            f"model.layers.{i}.self_attn.{name}": torch.ones(1) for i in range(3) for name in ("k_scale", "v_scale")
        }
        tables = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)}
        return {**held, **scales, **tables, "rope.freqs": torch.ones(4)}

    found = read_folder(other(written, tmp_path / "extra", extra))
    assert found.as_stored
    assert set(found.dropped) == {f"model.layers.{i}.self_attn.{n}_scale" for i in range(3) for n in "kv"}
    assert set(found.tensors) == set(stored_tensors(written))


def test_two_keys_for_one_parameter_are_refused(written: Path, tmp_path: Path) -> None:
    folder = other(written, tmp_path / "other", lambda held: {**held, "norm.weight": held["model.norm.weight"] + 1})
    with pytest.raises(UsageError, match=r"are both taken for model\.norm\.weight"):
        read_folder(folder)


@pytest.mark.parametrize("text", [{}, 5, {"model_type": "llama"}], ids=str)
def test_a_config_with_a_part_that_is_no_config_is_one_line(written: Path, tmp_path: Path, text: Any) -> None:
    folder = other(written, tmp_path / "other", lambda held: held, text_config=text)
    with pytest.raises(UsageError, match=r"config\.json"):
        read_folder(folder)
