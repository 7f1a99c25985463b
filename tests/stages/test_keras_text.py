"""Files that take and give text, run where Flex is: any prompt has the tokens and the text of the published model, and
what the tokenizer in the file makes otherwise is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import ENVIRONMENT

from harness.pipeline.loops import with_own_text, with_prompt
from harness.record.generation import Generation, StageGeneration
from harness.stages.keras.greedy import LoopSizes
from harness.store.cache import Cache
from harness.store.flex import interpreter

pytestmark = [pytest.mark.extras, pytest.mark.extras("flex"), pytest.mark.process]

SIZES = LoopSizes(prompt=32, tokens=10, cache=64)
SAME = {
    "words": "The lighthouse keeper's note, it's late",
    "emoji": "a 🙂🎉 day",
    "cjk": "灯台の光\u3000と海",
    "spaces": "  two  spaces   ",
    "nothing-but-spaces": "   ",
    "lines": "one\n\n\ttwo\r\n",
    "accents": "naïve Ĵ a\u00a0b",
}
# What KerasHub's tokenizer takes for a mark of its own, and a special token, which it reads as letters.
OTHER = {"digit-six": "६ 6", "special": "a<|endoftext|>b"}


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    from harness.spec.find import find_spec
    from harness.spec.load import load_spec
    from harness.weights.sources import resolve

    model = load_spec(find_spec("gpt2"))
    return resolve(model, checkpoint=None, miniature=True, seed=0, cache=Cache.standard()).folder


@pytest.fixture(scope="module")
def said(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from harness.spec.find import find_spec
    from harness.spec.load import load_spec
    from harness.spec.route import route_of
    from harness.stages.keras.loop_job import run_text, tokenizer_for
    from harness.stages.keras.network import load_keras
    from harness.stages.keras.text import write_text

    model: Any = load_spec(find_spec("gpt2"))
    file = tmp_path_factory.mktemp("text") / "text.tflite"
    own = route_of(model).model(model, miniature=True)
    network, tokenizer = load_keras(model, checkpoint), tokenizer_for(model, checkpoint)
    write_text(model, network, tokenizer, own.dimensions(), file, SIZES, stops=[0])
    python = interpreter(Cache.standard())
    assert python is not None
    return run_text(file, {**SAME, **OTHER, "empty": ""}, python)


def published(checkpoint: Path, prompt: list[int]) -> list[int]:
    import torch

    from harness.stages.huggingface.stage import load

    network, tokens = load(checkpoint, torch.float32), list(prompt)
    with torch.inference_mode():
        for _ in range(SIZES.tokens):
            tokens.append(int(network(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def tokenizer_in(checkpoint: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def test_any_text_has_the_tokens_of_the_published_tokenizer_and_the_text_of_the_published_model(
    said: dict[str, Any], checkpoint: Path
) -> None:
    tokenizer = tokenizer_in(checkpoint)
    for name, prompt in SAME.items():
        tokens = tokenizer.encode(prompt).ids
        assert said["prompt_tokens"][name] == tokens, name
        wanted = published(checkpoint, tokens)
        assert said["tokens"][name] == wanted, name
        ends = wanted.index(0) if 0 in wanted else len(wanted)
        assert said["texts"][name] == tokenizer.decode(wanted[:ends]), name


def test_no_text_at_all_is_the_token_that_begins_one(said: dict[str, Any], checkpoint: Path) -> None:
    begins = tokenizer_in(checkpoint).token_to_id("<|endoftext|>")
    assert said["prompt_tokens"]["empty"] == [begins]
    assert said["tokens"]["empty"] == published(checkpoint, [begins])


def test_what_keras_hubs_tokenizer_makes_otherwise_is_told_with_its_place(
    said: dict[str, Any], checkpoint: Path
) -> None:
    """It drops a digit that it uses as a mark of its own, and reads a special token as letters."""
    tokenizer = tokenizer_in(checkpoint)
    nothing = StageGeneration(stage="tflite-text", tokens=[], stopped="length", same=0, steps=0)
    for name, prompt in OTHER.items():
        found = with_prompt(nothing, said["prompt_tokens"][name], tokenizer.encode(prompt).ids)
        assert found.other_text is not None, name
        assert found.other_text.where == "prompt"
    right = with_own_text(nothing, said["texts"]["words"], said["texts"]["words"])
    assert right.other_text is None


def test_the_runtime_is_named(said: dict[str, Any]) -> None:
    assert said["runtime"] == "tensorflow 2.19.1, tensorflow-text 2.19.0"


# As the preprocessor that KerasHub gives its models does by default: a token stands before each prompt.
BEGINS = """
from pathlib import Path
from types import SimpleNamespace

from models.gpt2 import GPT2
import dataclasses


def _begins(folder: Path):
    import json

    import tensorflow as tf
    from keras_hub.tokenizers import GPT2Tokenizer

    class Begins(GPT2Tokenizer):
        def tokenize(self, inputs):
            return tf.concat([[self.start_token_id], super().tokenize(inputs)], 0)

    merges = (folder / "merges.txt").read_text().splitlines()[1:]
    return Begins(vocabulary=json.loads((folder / "vocab.json").read_text()), merges=merges)


MODEL = dataclasses.replace(GPT2, name="begins", tokenizer=_begins)
"""


def test_a_tokenizer_that_begins_each_prompt_is_found_by_a_command_and_the_loop_of_ids_is_right(tmp_path: Path) -> None:
    spec = tmp_path / "begins.py"
    spec.write_text(BEGINS)
    words = ["generate", f"{spec}:MODEL", "--tokens", "4", "--prompt", "The lamp", "--stages", "keras,tflite-xnnpack"]
    command = [sys.executable, "-m", "harness.commands.main", *words, "--json", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 1, done.stderr
    (prompt,) = Generation.model_validate(json.loads(done.stdout)).prompts
    stages = {stage.stage: stage for stage in prompt.stages}
    assert stages["tflite-greedy"].tokens == stages["hf"].tokens
    other = stages["tflite-text"].other_text
    assert other is not None
    assert (other.where, other.at) == ("prompt", 0)
    assert not stages["tflite-greedy"].wrong
