"""What the published model draws over its KV cache is what one pass over everything finds most likely."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.stages.huggingface.drawing import greedy
from harness.stages.huggingface.stage import load

pytestmark = pytest.mark.miniature

PROMPT = [11, 12, 13, 14, 15]
STEPS = 8


@pytest.fixture(scope="module")
def network(miniature: dict[str, Any]) -> Any:
    return load(Path(miniature["checkpoint"]), torch.float32)


def test_each_token_is_the_most_likely_one_after_all_before_it(network: Any) -> None:
    with torch.inference_mode():
        drawn = greedy(network, PROMPT, STEPS, 512)
        logits = network(torch.tensor([[*PROMPT, *drawn]])).logits[0]
    assert len(drawn) == STEPS
    assert drawn == logits[len(PROMPT) - 1 : -1].argmax(-1).tolist()


def test_only_tokens_that_every_version_knows_are_drawn(network: Any) -> None:
    with torch.inference_mode():
        everything, few = (greedy(network, PROMPT, STEPS, known) for known in (512, 100))
    assert max(everything) >= 100
    assert max(few) < 100


def test_preparing_tells_what_is_to_be_drawn_and_adds_the_edges(prepare: Any) -> None:
    made = prepare(Path(__file__).parents[2] / "models" / "tiny_llama.py", miniature=True, decode=4, edges=True)
    (lacking,) = made["to_draw"]
    assert (lacking["id"], len(lacking["tokens"]), lacking["decode_tail"], lacking["drawn"]) == ("decode", 6, 4, 4)
    lengths = {item["id"]: len(item["tokens"]) for item in made["inputs"] if item["id"].startswith("edge-")}
    assert lengths == {"edge-past-prefill": 34, "edge-full": 256}
    assert made["boundaries"] == {"table": 2048, "cache": 256}


def test_a_model_that_takes_no_cache_is_given_all_tokens_so_far() -> None:
    given: list[list[int]] = []

    def network(tokens: torch.Tensor, **more: Any) -> Any:
        given.append(tokens[0].tolist())
        logits = torch.nn.functional.one_hot(tokens + 1, 32).float()  # the next token is the last one plus one
        return SimpleNamespace(logits=logits, past_key_values="its own")

    assert greedy(network, [3, 4], 3, 32) == [5, 6, 7]
    assert given == [[3, 4], [3, 4, 5], [3, 4, 5, 6]]
