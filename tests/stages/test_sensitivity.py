"""What each tensor of a recipe costs: the fake-quantised stage with one tensor put back says so, and nothing else does.

On the TinyLlama miniature, whose float and fake-quantised stages are traced as a run traces them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantised_files import quantised, stages_of

from harness.bench.narrow_weight import QuantisedFile, broken
from harness.bench.workbench import Bench, bench
from harness.compare.metrics import logit_stats
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Silent
from harness.jobs.session import trace_inputs
from harness.jobs.switches import opener
from harness.names.codes import CostCause
from harness.names.stages import REAUTHORED, named, stage_named
from harness.price.sensitivity import inputs_for_sensitivity, run
from harness.record.sensitivity import AloneCosts, Sensitivity
from harness.store.trace import Trace

pytestmark = pytest.mark.slow


def job_of(recipe: str, folder: Path, file: QuantisedFile | None = None) -> Job:
    own = file or quantised(recipe)
    files = {"flatbuffer": own.file, "tapped": own.tapped, "plan": own.plan}
    return bench("tiny_llama").job(named("fakequant", recipe), folder, None, files)


def switched(job: Job, *, from_file: bool = True, by_layer: bool = False) -> Any:
    items = inputs_for_sensitivity(job.inputs)
    return opener(stage_named(job.stage).switches)(job, items, from_file=from_file, by_layer=by_layer)


@pytest.fixture(scope="module")
def model() -> Bench:
    return bench("tiny_llama")


@pytest.mark.parametrize("recipe", ["dynamic_int8", "fp16"])
def test_the_base_is_what_the_stages_trace(model: Bench, recipe: str, tmp_path: Path) -> None:
    """The traced input runs in steps with a cache; here it is one prefill: the same model to float32's rounding."""
    job = job_of(recipe, tmp_path)
    trace_inputs(job, Silent())
    with switched(job) as switches:
        right = {item.id: np.array(logits) for item, logits in switches.float_logits()}
        own = {item.id: np.array(logits) for item, logits in switches.base_logits()}
    for name, logits in right.items():
        count = logits.shape[1]
        traced = Trace.open(model.sound / REAUTHORED / name).load("logits")[:, :count]
        faked = Trace.open(tmp_path / job.stage / name).load("logits")[:, :count]
        wanted = logit_stats(traced, faked).kl.mean()
        assert np.abs(logits - traced).max() < 1e-4
        assert logit_stats(logits, own[name]).kl.mean() == pytest.approx(wanted, rel=0.05)


def test_a_block_that_is_not_run_again_gives_what_it_would(tmp_path: Path) -> None:
    """Put back at once, every tensor gives the float model; one by one, resuming changes nothing."""
    job = job_of("dynamic_int8", tmp_path)
    with switched(job) as switches:
        right = {item.id: np.array(logits) for item, logits in switches.float_logits()}
        base = {item.id: np.array(logits) for item, logits in switches.base_logits()}
        names = [tensor.name for tensor in switches.tensors]
        resumed = {name: [np.array(logits) for _, logits in switches.changed_logits(name)] for name in names}
        switches.resumes = False
        whole = {name: [np.array(logits) for _, logits in switches.changed_logits(name)] for name in names}
    assert len(names) == 16
    for name in names:
        assert all(np.array_equal(a, b) for a, b in zip(resumed[name], whole[name], strict=True)), name
        assert not np.array_equal(resumed[name][0], next(iter(base.values()))), name
        assert not np.array_equal(resumed[name][0], next(iter(right.values()))), name


def test_parts_of_a_fused_projection_are_the_whole_of_it(tmp_path: Path) -> None:
    """Queries, keys and values are rows of one weight: each of its numbers belongs to one of them."""
    with switched(job_of("dynamic_int8", tmp_path)) as switches:
        parts = {tensor.name: tensor for tensor in switches.tensors}
    with switched(job_of("dynamic_int8", tmp_path), by_layer=True) as switches:
        layers = {tensor.name: tensor for tensor in switches.tensors}
    for block in (0, 1):
        three = [parts[f"block.{block}.attn.{point}"] for point in "qkv"]
        assert {one.layer for one in three} == {f"block.{block}.attn.q"}
        assert sum(one.size for one in three) == layers[f"block.{block}.attn.q"].size
    assert len(layers) == 12


def test_a_tensor_that_is_damaged_costs_most_and_its_scales_are_why(tmp_path: Path) -> None:
    """The scales of one layer three times too large: every other tool shows it as one more bad layer."""
    layer = "block.1.mlp.up"
    sound, target = quantised("dynamic_int8"), tmp_path / "damaged.tflite"
    file = stages_of("dynamic_int8").aligned(broken(sound, layer, lambda weight: weight.scales(triple), target))
    found = measured(job_of("dynamic_int8", tmp_path, file))
    before = measured(job_of("dynamic_int8", tmp_path))
    dear = max(found.tensors, key=lambda one: one.gain or 0)
    assert dear.tensor == layer
    assert max(before.tensors, key=lambda one: one.gain or 0).tensor != layer
    assert dear.kl == pytest.approx(before.kl, rel=0.2)


def test_a_right_file_blames_no_scale_and_its_gains_come_to_its_price(tmp_path: Path) -> None:
    found = measured(job_of("dynamic_int8", tmp_path))
    assert CostCause.SCALE not in {one.why for one in found.tensors}
    assert sum(one.gain or 0 for one in found.tensors) == pytest.approx(found.kl, rel=0.2)
    assert found.positions == 51  # all that the inputs have


def test_alone_each_layer_costs_what_comes_to_the_price(tmp_path: Path) -> None:
    payload = {"job": job_of("dynamic_int8", tmp_path).model_dump(mode="json"), "alone": True}
    found = AloneCosts.model_validate(run(payload, Silent()))
    whole = measured(job_of("dynamic_int8", tmp_path))
    assert found.kl == pytest.approx(0.0, abs=1e-12)
    assert sum(one.kl or 0 for one in found.layers) == pytest.approx(whole.kl, rel=0.2)


def triple(scales: np.ndarray) -> None:
    scales *= 3


def measured(job: Job) -> Sensitivity:
    return Sensitivity.model_validate(run({"job": job.model_dump(mode="json")}, Silent()))


def test_inputs_are_cut_and_not_run_twice(model: Bench) -> None:
    chosen: list[JobInput] = inputs_for_sensitivity(model.prepared.inputs)
    assert sum(len(item.tokens) for item in chosen) <= 64
