"""The tokenizer of a miniature: any text comes back, and transformers reads it as it reads GPT-2's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.weights.small_tokenizer import ENDS_TEXT, MERGES_FILE, VOCAB_FILE, VOCABULARY, write_small_tokenizer
from harness.weights.tokenizer_files import load_tokenizer

pytestmark = pytest.mark.miniature


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    write_small_tokenizer(made)
    (made / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return made


@given(text=st.text(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back(folder: Path, text: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_transformers_makes_the_tokens_that_its_files_say(folder: Path) -> None:
    from tokenizers import Tokenizer

    read, own = load_tokenizer(folder, VOCABULARY, "here"), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in ("The lighthouse", " 🙂 灯台", "  two  spaces ", f"a{ENDS_TEXT}b"):
        assert read.encode(text) == own.encode(text).ids
    assert read.eos_token_id == own.token_to_id(ENDS_TEXT)


def test_its_vocabulary_and_merges_are_those_of_the_whole_tokenizer(folder: Path) -> None:
    whole = json.loads((folder / "tokenizer.json").read_text())["model"]
    vocabulary = json.loads((folder / VOCAB_FILE).read_text())
    assert vocabulary == whole["vocab"]
    assert sorted(vocabulary.values()) == list(range(VOCABULARY))
    first, *merges = (folder / MERGES_FILE).read_text().splitlines()
    assert first.startswith("#version")
    assert len(merges) == len(whole["merges"])
    assert all("".join(line.split(" ")) in vocabulary for line in merges)


def test_it_is_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    write_small_tokenizer(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
