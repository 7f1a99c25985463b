"""Every stage of the registry that can be driven keeps the contract of `harness/jobs/driver.py`: driven step by step it
computes what it traces, and a KV cache stays what it was when it is handed in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from quantised_files import QuantisedFile, quantised

from harness.bench.workbench import bench
from harness.errors import UsageError
from harness.inputs.tokens import schedule
from harness.jobs.driver import Cache, Driver, driver_of, driving
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Silent
from harness.jobs.session import trace_inputs
from harness.names.stages import FLOAT, HF, ORACLE, Stage, every_stage
from harness.names.taps import LOGITS
from harness.store.trace import Trace

pytestmark = pytest.mark.slow
RECIPE = "dynamic_int8"
STAGES = [
    pytest.param(stage.quantised(RECIPE) if stage.quantised_only else stage, id=stage.name)
    for stage in every_stage()
    if stage.drives and not stage.place  # of this route
]
DRAWN = 4


class Driven(NamedTuple):
    job: Job
    driver: Driver
    prompt: list[int]


@pytest.fixture(params=STAGES, scope="module")
def driven(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driven]:
    stage: Stage = request.param
    model = bench("tiny_llama")
    own = quantised(RECIPE) if stage.recipe != FLOAT else QuantisedFile(model.flatbuffer, *model.tapped)
    files = {"flatbuffer": own.file, "tapped": own.tapped, "plan": own.plan} if stage.reads_file else {}
    job = model.job(stage.name, tmp_path_factory.mktemp("driven"), None, files)
    with driving(job) as driver:
        yield Driven(job, driver, model.prepared.inputs[-1].tokens)


def prefilled(driver: Driver, tokens: list[int]) -> tuple[np.ndarray, Cache]:
    """The logits of all positions, and the cache."""
    cache, rows = driver.fresh(), []
    for step in schedule(len(tokens), 1, driver.prefill, driver.kv_cache_len):
        called = driver.call(step, tokens[step.start : step.start + step.valid], cache)
        assert called.logits is not None
        rows.append(called.logits)
        cache = called.cache
    return np.concatenate(rows), cache


def drawn(driver: Driver, prompt: list[int]) -> tuple[list[int], Cache]:
    """Greedily, one by one; the last token that is drawn is in the cache too."""
    rows, cache = prefilled(driver, prompt)
    tokens = [int(rows[-1].argmax())]
    while len(tokens) <= DRAWN:
        (step,) = schedule(len(prompt) + len(tokens), 1, driver.prefill, driver.kv_cache_len)[-1:]
        called = driver.call(step, tokens[-1:], cache)
        assert called.logits is not None
        tokens.append(int(called.logits[-1].argmax()))
        cache = called.cache
    return tokens[:DRAWN], cache


def test_the_tokens_it_draws_are_those_that_its_own_traces_say(driven: Driven) -> None:
    tokens, cache = drawn(driven.driver, driven.prompt)
    whole = JobInput(id="drawn", tokens=[*driven.prompt, *tokens], decode_tail=DRAWN + 1)
    with driving(driven.job) as again:
        rows, _ = prefilled(again, driven.prompt)
    trace_inputs(driven.job.model_copy(update={"inputs": [whole]}), Silent())
    trace = Trace.open(driven.job.traces / whole.id)
    logits = trace.load(LOGITS)[0]
    before = len(driven.prompt) - 1
    assert logits[before:-1].argmax(-1).tolist() == tokens
    assert np.allclose(rows[before], logits[before], rtol=1e-3, atol=1e-4)
    slots = driven.driver.slots(cache)
    assert set(slots) == {tap for tap in trace.taps if ".cache." in tap}
    for tap, values in slots.items():
        assert np.allclose(values[:, : trace.length], trace.load(tap), rtol=1e-3, atol=1e-4)


def test_a_cache_that_is_handed_in_stays_as_it_was(driven: Driven) -> None:
    _, cache = prefilled(driven.driver, driven.prompt)
    before = driven.driver.slots(cache)
    length = len(driven.prompt)
    (step,) = schedule(length + 1, 1, driven.driver.prefill, driven.driver.kv_cache_len)[-1:]
    one, other = (driven.driver.call(step, [token], cache) for token in (5, 6))
    after = driven.driver.slots(cache)
    assert all(np.array_equal(before[tap], after[tap]) for tap in before)
    assert not np.array_equal(one.logits, other.logits)
    slot = driven.driver.slots(one.cache)["block.0.cache.k"][:, length]
    assert not np.array_equal(slot, driven.driver.slots(other.cache)["block.0.cache.k"][:, length])


def test_a_fresh_cache_is_empty(driven: Driven) -> None:
    slots = driven.driver.slots(driven.driver.fresh())
    assert bool(slots) is driven.driver.can.slots
    for values in slots.values():
        assert values.shape[:2] == (1, driven.driver.kv_cache_len)
        assert not values.any()


def test_padding_is_what_the_caller_says_or_zeros(driven: Driven) -> None:
    """And it is computed where a stage pads: its slots are written."""
    driver, size = driven.driver, driven.driver.prefill[0]
    (step,) = schedule(size - 2, 0, driver.prefill, driver.kv_cache_len)
    tokens = driven.prompt[: size - 2]
    calls = [driver.call(step, [*tokens, *padding], driver.fresh()) for padding in ((), (0, 0), (7, 8))]
    plain, zeros, other = (driver.slots(call.cache)["block.0.cache.k"] for call in calls)
    assert np.array_equal(plain, zeros)
    assert np.array_equal(plain, other) is not driver.can.pads
    with pytest.raises(ValueError, match=f"of {size} valid"):
        driver.call(step, tokens[1:], driver.fresh())


def test_more_threads_compute_the_same_tokens(driven: Driven) -> None:
    one, _ = prefilled(driven.driver, driven.prompt)
    with driven.driver.with_threads(2) as threaded:
        other, _ = prefilled(threaded, driven.prompt)
    assert np.allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_position_that_the_grown_cache_does_not_end_at_is_refused(driven: Driven) -> None:
    driver = driven.driver
    if driven.job.stage not in (HF, ORACLE):
        return
    (step,) = schedule(6, 1, driver.prefill, driver.kv_cache_len)[-1:]
    with pytest.raises(ValueError, match="the cache holds 0"):
        driver.call(step, [5], driver.fresh())


def test_a_stage_that_cannot_be_driven_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from toy_stage import Toy, toy

    from harness.names import stages

    stages.register(toy("toy-faithful", "faithful"))
    try:
        job = bench("tiny_llama").job("toy-faithful", tmp_path)
        with (
            pytest.raises(UsageError, match="toy-faithful cannot be run step by step"),
            driver_of("toy-faithful", Toy(job, 1.0)),
        ):
            pass
    finally:
        stages.unregister("toy-faithful")
