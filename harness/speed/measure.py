"""How fast a stage is: the same prompt again and again, each prefilled in one call and then decoded token by token.

In: a job of a stage that can be driven. Out: a `StageSpeed`. It runs in a process of its own. The first calls are no
repeat. What is timed is a call from Python as the stage's runtime takes it: the KV cache goes in and comes out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import BaseModel

from harness.jobs.driver import Driver, driving
from harness.jobs.job import Job
from harness.jobs.reporter import Reporter, costs_only_this_stage
from harness.processes.worker import peak_rss_mb
from harness.record.speed import Measured, StageSpeed
from harness.speed.machine import look, others_cores
from harness.speed.prompt import Prompt, prompt_of

FEWEST, MOST = 5, 40  # repeats
BUDGET = 10.0  # seconds of a stage, once it has the fewest
PATIENCE = 60.0  # seconds after which two repeats are enough
Clock = Callable[[], float]


class SpeedRequest(BaseModel):
    """What the process is told."""

    job: Job


@dataclass(frozen=True)
class Repeat:
    """Seconds of one prompt: of its prefill, and of each decode."""

    prefill: float
    decodes: tuple[float, ...]


def repeat(driver: Driver, prompt: Prompt, clock: Clock = time.perf_counter) -> Repeat:
    """Run a prompt once, on a fresh KV cache."""
    valid, cache = prompt.prefill.valid, driver.fresh()
    at = [clock()]
    called = driver.call(prompt.prefill, prompt.tokens[:valid], cache)
    at.append(clock())
    for step in prompt.decodes:
        called = driver.call(step, prompt.tokens[step.start : step.start + 1], called.cache)
        at.append(clock())
    prefill, *decodes = [after - before for before, after in pairwise(at)]
    return Repeat(prefill, tuple(decodes))


def is_enough(repeats: int, seconds: float) -> bool:
    """Whether so many repeats, which took so long together, will do."""
    if repeats >= MOST or (repeats >= 2 and seconds >= PATIENCE):
        return True
    return repeats >= FEWEST and seconds >= BUDGET


def measured(values: Sequence[float]) -> Measured:
    """Median and quartiles of one value or more."""
    if len(values) < 2:
        return Measured(median=values[0], low=values[0], high=values[0])
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Measured(median=statistics.median(values), low=low, high=high)


def summed(stage: str, prompt: Prompt, repeats: Sequence[Repeat]) -> StageSpeed:
    """The figures of a stage: a figure of each repeat, of which the median and the quartiles stand."""
    return StageSpeed(
        stage=stage,
        prefill=measured([prompt.prefill.valid / one.prefill for one in repeats]),
        decode=measured([len(one.decodes) / sum(one.decodes) for one in repeats]),
        first_token=measured([one.prefill + one.decodes[0] for one in repeats]),
        repeats=len(repeats),
        decoded=len(prompt.decodes),
    )


def run(payload: object, report: Reporter) -> dict[str, object]:
    """payload: a `SpeedRequest`. Returns a `StageSpeed`."""
    job = SpeedRequest.model_validate(payload).job
    before, began = peak_rss_mb(), time.perf_counter()
    with costs_only_this_stage(), driving(job) as driver:
        driver.fresh()  # a file may be opened when it is first asked for
        load = time.perf_counter() - began
        longest = max((item.tokens for item in job.inputs), key=len)
        prompt = prompt_of(driver.prefill, driver.kv_cache_len, longest)
        report.progress(0, BUDGET, "first calls")
        first = repeat(driver, prompt)
        repeats: list[Repeat] = []
        before_all, began = look(), time.perf_counter()
        while not is_enough(len(repeats), seconds := time.perf_counter() - began):
            report.progress(min(seconds, BUDGET), BUDGET, f"prompt {len(repeats) + 1}")
            repeats.append(repeat(driver, prompt))
        found = summed(job.stage, prompt, repeats)
        told = {
            "load": load,
            "first_calls": first.prefill + first.decodes[0],
            "others": others_cores(before_all, look()),
        }
    told |= {"before_mb": before, "peak_mb": peak_rss_mb()}
    told["file_mb"] = job.flatbuffer.stat().st_size / 1e6 if job.flatbuffer else None
    return found.model_copy(update=told).model_dump()
