"""Speed is measured on the stages as they are: each kind of driver gives every figure. What they are is not a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench.workbench import bench
from harness.jobs.reporter import Silent
from harness.names.stages import BUILTIN, HF, REAUTHORED, XNNPACK
from harness.record.speed import StageSpeed
from harness.speed import measure

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", [HF, REAUTHORED, XNNPACK, BUILTIN])
def test_a_stage_is_measured(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BUDGET", 0.0)
    model = bench("tiny_llama")
    tapped, plan = model.tapped
    reads = stage in (XNNPACK, BUILTIN)
    files = {"flatbuffer": model.flatbuffer, "tapped": tapped, "plan": plan} if reads else {}
    job = model.job(stage, tmp_path, None, files).model_copy(update={"threads": 1})
    found = StageSpeed.model_validate(measure.run({"job": job.model_dump(mode="json")}, Silent()))
    assert found.stage == stage
    assert (found.repeats, found.why_not) == (measure.FEWEST, "")
    assert found.decoded > 1
    for figure in (found.prefill, found.decode, found.first_token):
        assert figure is not None
        assert 0 < figure.low <= figure.median <= figure.high
    assert found.load is not None
    assert found.first_calls is not None
    assert found.peak_mb is not None
    assert found.before_mb is not None
    assert 0 < found.before_mb <= found.peak_mb
    assert found.file_mb == (model.flatbuffer.stat().st_size / 1e6 if reads else None)
    assert list(tmp_path.iterdir()) == [], "nothing is traced"
