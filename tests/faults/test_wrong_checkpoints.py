"""A checkpoint or a map that fits the model nowhere is refused by what is wrong with it, before a stage runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.locate.owners import ownership
from harness.names.codes import FindingCode
from harness.record.record import Fault, Finding
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel
from harness.stages.litert_torch.miniature import shrink
from harness.weights.miniature import WINDOW, shrunk_hf_config
from harness.weights.tokenizer_files import load_tokenizer

pytestmark = pytest.mark.slow

TINY_LLAMA = Path("models/tiny_llama.py")
Prepare = Callable[..., dict[str, Any]]


def written(folder: Path, **changes: Any) -> Path:
    """A Llama of other sizes than any declaration here."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 520, "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 2,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 64,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).save_pretrained(folder)
    return folder


def spec(folder: Path, text: str) -> Path:
    file = folder / "spec.py"
    file.write_text(text)
    return file


def declared_as(folder: Path) -> Path:
    """TinyLlama declared with the sizes above, but for the vocabulary: 512."""
    return spec(
        folder,
        TINY_LLAMA.read_text()
        .replace("vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,",
                 "vocab_size=512, hidden_size=128, intermediate_size=320, num_hidden_layers=2, head_dim=64,")
        .replace("num_attention_heads=32, num_key_value_heads=4,", "num_attention_heads=16, num_key_value_heads=2,"),
    )  # fmt: skip


def test_resized_embeddings_are_one_line_that_says_what_to_declare(prepare: Prepare, tmp_path: Path) -> None:
    folder = written(tmp_path / "weights")
    with pytest.raises(UsageError) as caught:
        prepare(declared_as(tmp_path), checkpoint=str(folder))
    message = str(caught.value)
    assert "vocabulary 520, the declaration of tiny_llama says 512" in message
    assert "declare the resized vocabulary" in message


def test_pruned_layers_are_one_line_that_says_what_to_do(prepare: Prepare, tmp_path: Path) -> None:
    folder = written(tmp_path / "weights", vocab_size=512, num_hidden_layers=1)
    with pytest.raises(UsageError, match="layers 1, the declaration of tiny_llama says 2;"):
        prepare(declared_as(tmp_path), checkpoint=str(folder))


def tokenizer(folder: Path, tokens: int) -> None:
    from tokenizers import Tokenizer, models

    folder.mkdir(exist_ok=True)
    vocabulary = {f"t{i}": i for i in range(tokens - 1)} | {"a": tokens - 1}
    Tokenizer(models.WordLevel(vocabulary, unk_token="t0")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def test_a_tokenizer_that_fits_is_loaded_and_one_with_more_words_is_another_models(tmp_path: Path) -> None:
    tokenizer(tmp_path, 512)
    assert load_tokenizer(tmp_path, 512, "here")("a").input_ids == [511]
    assert load_tokenizer(tmp_path, 600, "here").vocab_size == 512
    with pytest.raises(UsageError, match="here: the tokenizer has a vocabulary of 512, the model one of 511: it is"):
        load_tokenizer(tmp_path, 511, "here")


def test_a_token_that_is_added_beyond_the_vocabulary_is_no_other_model(tmp_path: Path) -> None:
    """Gemma 3 has one for images, which its language model has no row for."""
    tokenizer(tmp_path, 512)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    added = {"id": 512, "content": "<image>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "added_tokens": [added]}))
    assert len(load_tokenizer(tmp_path, 512, "here")) == 513


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 5000,
        lambda text: text.replace("WordLevel", "NoSuchKind"),
        lambda text: text.replace('"t1":1', '"t1":-1'),
        lambda text: "",
        lambda text: "\0" * 100,
    ],
    ids=["cut", "deep", "unknown kind", "negative token", "empty", "zeros"],
)
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, damage: Callable[[str], str]) -> None:
    tokenizer(tmp_path, 16)
    file = tmp_path / "tokenizer.json"
    file.write_text(damage(json.dumps(json.loads(file.read_text()), separators=(",", ":"))))
    with pytest.raises(UsageError) as caught:
        load_tokenizer(tmp_path, 16, "here")
    assert str(caught.value).startswith("here: the tokenizer cannot be loaded (")
    assert "remove them and give --inputs" in str(caught.value)


def windowed(window: int, reach: int, own: int | None) -> GenerativeModel:
    """TinyLlama published with a window, re-authored for `reach` positions with a window of its own or none."""
    import copy

    from transformers import MistralConfig

    model = load_spec(find_spec("tiny_llama"))
    config: Any = copy.deepcopy(model.config())
    config.max_seq_len = reach
    config.block_configs.attn_config.sliding_window_size = own
    sizes = {name: getattr(model.published(), name) for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads",
    )}  # fmt: skip
    return dataclasses.replace(
        model,
        config=lambda: copy.deepcopy(config),
        published=lambda: MistralConfig(**sizes, sliding_window=window, max_position_embeddings=32768),
    )


@pytest.mark.parametrize(
    ("window", "reach", "own", "small"),
    [
        (4096, 2048, None, 4096),  # never reached, so never shrunk
        (4096, 4096, None, 4096),
        (4096, 4097, None, WINDOW),  # reached by one position: the re-authored model lacks it
        (4096, 8192, 4096, WINDOW),
        (4096, 2048, 4096, WINDOW),  # both have it: both are shrunk, and the miniature tests it
    ],
)
def test_a_window_that_is_never_reached_acts_in_no_miniature(
    window: int, reach: int, own: int | None, small: int
) -> None:
    model = windowed(window, reach, own)
    assert shrunk_hf_config(model).sliding_window == small
    mine = shrink(model)[1].block_configs.attn_config.sliding_window_size
    assert mine == (WINDOW if own else None)


def test_a_complaint_about_several_blocks_is_about_each_of_them() -> None:
    complaint = Finding(
        kind="weights",
        code=FindingCode.PARAMETER_NOT_LOADED,
        severity="error",
        what="transformer_blocks.{1-3}.pre_atten_norm.weight of the re-authored model receives no value",
        parameter="transformer_blocks.{}.pre_atten_norm.weight",
        blocks=[1, 2, 3],
    )

    def owner(block: int) -> str:
        fault = Fault(
            hop="hf->reauthored", tap=f"block.{block}.attn.norm", block=block, input="long", excess=9.0,
            modules={"reauthored": f"transformer_blocks.{block}.pre_atten_norm"}, local_excess=9.0,
        )  # fmt: skip
        return ownership(fault, [fault], [complaint], {}).owner

    assert [owner(block) for block in (0, 1, 3, 4)] == ["re-authoring", "weights", "weights", "re-authoring"]
