"""Inputs that the reference continues, and the edges of the context: which there are, and what does not fit is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import UsageError
from harness.inputs.decode import to_draw
from harness.inputs.edges import edge_inputs, edge_lengths
from harness.inputs.given import check_ids
from harness.inputs.tokens import TokenInput, default_inputs
from harness.jobs.job import JobInput
from harness.jobs.results import Drawn
from harness.names.boundaries import CACHE, ROPE, WINDOW
from harness.names.codes import FindingCode
from harness.pipeline.drawing import DRAW, with_drawn
from harness.pipeline.options import Options, check
from harness.processes.scheduler import TaskResult
from harness.weights.families import rope_boundary

DEFAULTS = default_inputs(
    prefill=(32,), kv_cache_len=256, vocab_size=300, window=None, tokenizer=None, prompt="", seed=0
)


def test_without_inputs_of_a_person_an_input_of_its_own_goes_on_from_the_prompt() -> None:
    prompt = next(item for item in DEFAULTS if item.id == "prompt")
    assert to_draw(DEFAULTS, [], 16, 256) == [TokenInput("decode", prompt.tokens, None, 16, 16)]


def test_an_input_of_a_person_goes_on_and_keeps_its_own_decode_tail() -> None:
    (found,) = to_draw([], [TokenInput("mine", (5, 6, 7), "my text", 2)], 4, 256)
    assert (found.id, found.tokens, found.text) == ("mine", (5, 6, 7), "my text")
    assert (found.decode_tail, found.drawn) == (6, 4)


def test_nothing_is_drawn_without_a_number_of_steps() -> None:
    assert to_draw(DEFAULTS, [], 0, 256) == []


def test_what_the_cache_does_not_hold_is_refused_with_a_remedy() -> None:
    fits = TokenInput("mine", (5,) * 12)
    assert to_draw([], [fits], 4, 16)
    with pytest.raises(UsageError, match=r"--decode 5: input 'mine' has 12 tokens.*cache of 16.*--kv-cache-len"):
        to_draw([], [fits], 5, 16)


def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(UsageError, match="--decode -1 is negative"):
        check(Options("tiny_llama", decode=-1))


def test_a_model_without_window_and_scaled_rope_has_two_edges_and_the_first_position() -> None:
    assert edge_lengths([8, 32], {CACHE: 256}) == {"edge-first": 1, "edge-past-prefill": 34, "edge-full": 256}


def test_a_window_has_three_edges_and_a_scaled_rope_two() -> None:
    lengths = edge_lengths([32], {WINDOW: 16, ROPE: 64, CACHE: 128})
    window = {name: length for name, length in lengths.items() if "window" in name}
    assert window == {"edge-window-below": 15, "edge-window-at": 16, "edge-window-above": 17}
    assert (lengths["edge-rope"], lengths["edge-rope-above"]) == (64, 65)


def test_edges_past_the_cache_are_named_with_their_reason_and_are_no_inputs() -> None:
    inputs, not_run = edge_inputs([32], {WINDOW: 128, CACHE: 128}, 300, None, 0)
    assert {item.id: len(item.tokens) for item in inputs} == {
        "edge-first": 1,
        "edge-past-prefill": 34,
        "edge-window-below": 127,
        "edge-window-at": 128,
        "edge-full": 128,
    }
    assert not_run == {"edge-window-above": "129 tokens do not fit the KV cache of 128 positions"}
    assert {item.decode_tail for item in inputs} == {1}


@pytest.mark.parametrize(
    ("fields", "boundary"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "original_max_position_embeddings": 8192}}, 8192),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_parameters": {"full": {"rope_type": "yarn", "original_max_position_embeddings": 64}, "part": {}}}, 64),
        ({"rope_parameters": {"rope_type": "default"}, "original_max_position_embeddings": 4096}, None),
        ({"rope_parameters": {"rope_type": "linear", "factor": 8.0}}, None),
        ({"rope_scaling": None}, None),
    ],
)
def test_a_scaled_rope_has_a_boundary_where_its_config_says_what_it_was_trained_for(
    fields: dict[str, Any], boundary: int | None
) -> None:
    assert rope_boundary(SimpleNamespace(**fields)) == boundary


class Prepared(SimpleNamespace):
    """As much of one as is asked for."""

    def model_copy(self, update: dict[str, Any]) -> Prepared:
        return Prepared(**{**vars(self), **update})


def prepared() -> Any:
    lacking = JobInput(id="mine", tokens=[5, 6, 7], decode_tail=5, text="my text", drawn=4)
    return Prepared(
        inputs=[JobInput(id="other", tokens=[1])], to_draw=[lacking], prefill=[8], kv_cache_len=16, findings=[]
    )


def test_drawn_tokens_complete_an_input_and_its_schedule() -> None:
    drawn = Drawn(tokens={"mine": [11, 12, 13, 14]})
    found = with_drawn(prepared(), TaskResult(DRAW, "ok", value=drawn))
    assert [item.id for item in found.inputs] == ["other", "mine"]
    mine = found.inputs[1]
    assert (mine.tokens, mine.of_text) == ([5, 6, 7, 11, 12, 13, 14], [5, 6, 7])
    assert found.schedules["mine"] == "prefill_8[0:2] decode[2:7]"
    assert (found.to_draw, found.findings) == ([], [])


def test_where_nothing_could_be_drawn_the_run_goes_on_and_cannot_pass() -> None:
    found = with_drawn(prepared(), TaskResult(DRAW, "crashed", detail="killed"))
    assert (found.inputs[1].tokens, found.inputs[1].decode_tail, found.inputs[1].drawn) == ([5, 6, 7], 1, 0)
    (finding,) = found.findings
    assert (finding.code, finding.severity) == (FindingCode.DECODE_NOT_DRAWN, "error")
    assert "killed" in finding.what


def test_two_inputs_of_one_id_are_refused() -> None:
    check_ids([TokenInput("a", (1,)), TokenInput("b", (1,))])
    with pytest.raises(UsageError, match="two inputs are called 'A': one of --inputs, and one of --prompt"):
        check_ids([TokenInput("a", (1,)), TokenInput("A", (1,))])
