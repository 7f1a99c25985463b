"""A fault's tensor and operator in a flatbuffer are those of the signature where the fault is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.align.plan import PlanFacts, Written
from harness.jobs.job import JobInput
from harness.names.stages import FLATBUFFER, FLOAT
from harness.pipeline.fault_names import in_signature, named_where_it_is
from harness.record.record import Fault
from harness.record.tap_row import TapRow, taps_frame

TAP, FILE_HOP = "block.0.attn.q", "reauthored->tflite-xnnpack"
FILE = PlanFacts(
    {
        "prefill_32": {TAP: Written("q of prefill", "FULLY_CONNECTED"), "embed": Written("e of prefill", "GATHER")},
        "decode": {TAP: Written("q of decode", "BATCH_MATMUL")},
    }
)
ITEM = JobInput(id="padded", tokens=list(range(40)), decode_tail=2)  # prefill_32[0:32], [32:38], decode[38], [39]
PREPARED: Any = SimpleNamespace(inputs=[ITEM], prefill=[32], kv_cache_len=64)


def fault(hop: str = FILE_HOP, tap: str = TAP, **more: Any) -> Fault:
    return Fault(hop=hop, tap=tap, block=0, input="padded", modules={"hf": "q_proj", FLATBUFFER: "?"}, op="?", **more)


def named(found: Fault, worst: int | None = 3, recipe: str = FLOAT) -> tuple[str, str | None, str | None]:
    row = TapRow(model="m", input="padded", hop=found.hop, tap=found.tap, block=0, order=1, worst_position=worst)
    told = named_where_it_is(found, taps_frame([row]), PREPARED, {recipe: FILE})
    assert told.modules["hf"] == "q_proj"
    return told.signature, told.modules[FLATBUFFER], told.op


OF_PREFILL = ("prefill_32", "q of prefill", "FULLY_CONNECTED")
OF_DECODE = ("decode", "q of decode", "BATCH_MATMUL")


@pytest.mark.parametrize(
    ("place", "worst", "says"),
    [
        ({"only_in": "decode", "first_step": 1, "first_position": 38}, 3, OF_DECODE),
        ({"only_in": "prefill"}, 37, OF_PREFILL),
        ({"starts_at": 38, "boundary": "decode"}, 3, OF_DECODE),
        ({"starts_at": 32, "boundary": "chunk"}, 39, OF_PREFILL),
        ({}, 37, OF_PREFILL),
        ({}, 39, OF_DECODE),
        ({}, None, OF_PREFILL),
    ],
)
def test_tensor_and_operator_are_of_the_signature_where_the_fault_is(
    place: dict[str, Any], worst: int | None, says: tuple[str, str, str]
) -> None:
    assert named(fault(**place), worst) == says


def test_what_a_signature_lacks_is_named_by_one_that_has_it() -> None:
    assert named(fault(tap="embed", only_in="decode")) == ("prefill_32", "e of prefill", "GATHER")
    assert named(fault(tap="logits")) == ("", "?", "?")


def test_a_quantised_file_has_a_plan_of_its_own() -> None:
    of_recipe = fault("fakequant[fp16]->tflite-xnnpack[fp16]", only_in="decode")
    assert named(of_recipe, recipe="fp16") == OF_DECODE
    assert named(of_recipe) == ("", "?", "?"), "the float32 file says nothing of it"


def test_a_hop_that_runs_no_file_has_no_operator_of_it() -> None:
    assert named(fault("hf->reauthored", only_in="decode")) == ("decode", "q of decode", "?")


def test_the_operator_that_was_found_says_which_signature() -> None:
    assert in_signature(fault(), "decode", {FLOAT: FILE}).modules[FLATBUFFER] == "q of decode"
