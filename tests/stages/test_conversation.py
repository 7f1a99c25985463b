"""A conversation runs on every stage as one sequence whose cache goes on from turn to turn."""

from __future__ import annotations

import numpy as np
import pytest

from harness.bench.workbench import bench
from harness.inputs.tokens import schedule_of
from harness.jobs.job import JobInput
from harness.jobs.reporter import Silent
from harness.jobs.session import trace_inputs
from harness.names.stages import HF, REAUTHORED, XNNPACK
from harness.names.taps import LOGITS
from harness.store.trace import Trace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    model, folder = bench("tiny_llama"), tmp_path_factory.mktemp("conversation")
    tapped, plan = model.tapped
    tokens = [3 + at * 7 % 200 for at in range(60)]
    chat = JobInput(id="chat", tokens=tokens, decode_tail=3, earlier=[(11, 4), (30, 2)])
    found = {}
    for stage in (HF, REAUTHORED, XNNPACK):
        files = {"flatbuffer": model.flatbuffer, "tapped": tapped, "plan": plan} if stage == XNNPACK else {}
        job = model.job(stage, folder / stage, None, files).model_copy(update={"inputs": [chat]})
        kinds = [step.signature.partition("_")[0] for step in schedule_of(chat, job)]
        assert kinds.index("decode") < len(kinds) - 1 - kinds[::-1].index("prefill"), "no prefill after a decode"
        trace_inputs(job, Silent())
        found[stage] = Trace.open(job.traces / chat.id)
    return found


@pytest.mark.parametrize("stage", [REAUTHORED, XNNPACK])
def test_turn_by_turn_a_stage_computes_what_the_published_model_does_at_once(
    traces: dict[str, Trace], stage: str
) -> None:
    known, found = traces[HF], traces[stage]
    for tap in (LOGITS, "block.0.cache.k", "block.1.cache.v"):
        assert found.load(tap).shape == known.load(tap).shape
        assert np.allclose(found.load(tap), known.load(tap), rtol=1e-3, atol=1e-4), tap
