"""The laws hold on every stage of a faithful miniature, quantised ones too, and mistakes in a real model break them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from quantised_files import QuantisedFile, quantised

from harness.bench.workbench import bench
from harness.jobs.driver import driving
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Silent
from harness.jobs.session import trace_inputs
from harness.judge.rules import load_rules
from harness.laws.check import check_laws
from harness.laws.job import passed_again
from harness.laws.judging import LawJudge
from harness.names.laws import LawName
from harness.names.stages import FLOAT, HF, ORACLE, REAUTHORED, Stage, every_stage, named, split, stage_named
from harness.record.laws import LawResult

pytestmark = pytest.mark.slow
RECIPE = "dynamic_int8"
STAGES = [
    pytest.param(named(stage.name, recipe), id=named(stage.name, recipe))
    for stage in every_stage()
    for recipe in (FLOAT, RECIPE)
    if stage.drives
    and not stage.place
    and (recipe == RECIPE if stage.quantised_only else recipe == FLOAT or stage.runs_file)
]
LENGTH = 20


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run would have left of the reference and of the grid of a quantised file's inputs."""
    folder = tmp_path_factory.mktemp("laws")
    for name in (ORACLE, HF, f"fakequant[{RECIPE}]", f"fakequant-builtin[{RECIPE}]"):
        trace_inputs(job_of(stage_named(name), folder), Silent())
    return folder


def job_of(stage: Stage, folder: Path) -> Job:
    model = bench("tiny_llama")
    own = quantised(RECIPE) if split(stage.name)[1] != FLOAT else QuantisedFile(model.flatbuffer, *model.tapped)
    files = {"flatbuffer": own.file, "tapped": own.tapped, "plan": own.plan} if stage.reads_file else {}
    return model.job(stage.name, folder, None, files)


def judged(name: str, folder: Path) -> dict[str, LawResult]:
    job = job_of(stage_named(name), folder)
    longest = job.inputs[-1]
    asked = JobInput(id=longest.id, tokens=longest.tokens[:LENGTH])
    with driving(job) as driver:
        check_laws(driver, asked, job.dimensions.tokens, job.traces, passed_again(job.inputs))
    found = LawJudge(folder, "tiny_llama", load_rules()).judged(name, asked.id)
    near = [(one.law, one.figure, one.limit) for one in found if one.figure and one.limit]
    print(f"{name}: nearest {max(near, key=lambda one: one[1] / one[2]) if near else 'no bit differs'}")
    return {one.law: one for one in found}


@pytest.mark.parametrize("stage", STAGES)
def test_all_laws_hold(stage: str, traces: Path) -> None:
    found = judged(stage, traces)
    assert {law: one.why for law, one in found.items() if one.verdict in ("broken", "not run")} == {}
    away = {law for law, one in found.items() if one.verdict == "not applicable"}
    grows = {LawName.PADDING, LawName.OWN_SLOTS, LawName.USED_CACHE}
    assert away == (grows if stage in (HF, ORACLE) else set())


def test_a_slot_one_off_in_decode_is_seen(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from litert_torch.generative.layers import kv_cache

    right = kv_cache.update

    def off(cache: Any, input_pos: Any, *args: Any, **kwargs: Any) -> Any:
        return right(cache, input_pos + 1 if len(input_pos) == 1 else input_pos, *args, **kwargs)

    monkeypatch.setattr(kv_cache, "update", off)
    found = judged(REAUTHORED, traces)
    assert found["own-slots"].verdict == "broken"
    assert found["own-slots"].position == LENGTH
    assert found["prefill-is-decodes"].verdict == "broken"
    assert found["rerun"].verdict == "holds"


def test_state_that_is_kept_between_calls_is_seen(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from litert_torch.generative.layers import kv_cache

    last: dict[Any, Any] = {}  # by shape: of each signature by itself
    right = kv_cache.update

    def stale(cache: Any, input_pos: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
        kept, last[v.shape] = last.get(v.shape, v), v
        return right(cache, input_pos, k, kept, *args, **kwargs)

    monkeypatch.setattr(kv_cache, "update", stale)
    found = judged(REAUTHORED, traces)
    assert found["second-prompt"].verdict == "broken"
    assert found["any-order"].verdict == "broken"
