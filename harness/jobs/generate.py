"""What one stage generates: greedily by itself, and what it says after each of the reference's tokens.

In: a `GenerateJob`. Out: a `Generated`, and the logits of every step as a trace of the one tap `logits`. Entered in a
process of its own.

After the same tokens two stages can be compared at every step. So a stage that chooses another token goes on twice:
with its own, which gives the text that an app would print, and with the reference's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from harness.inputs.tokens import Step, schedule_of
from harness.jobs.driver import Array, Cache, Driver, driver_of
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter, costs_only_this_stage
from harness.jobs.session import AS_NAMED, opener
from harness.names.taps import LOGITS
from harness.record.generation import Stopped
from harness.store.trace import TraceWriter, unrounded


class GenerateJob(BaseModel):
    """job: its inputs are the prompts; its traces are the folder for the logits. tokens: how many to generate.

    follow: the reference's tokens by input; None for the reference itself, which goes its own way alone.
    own: whether the stage goes its own way too; what only says how much noise there is does not.
    """

    job: Job
    tokens: int
    stops: list[int]
    follow: dict[str, list[int]] | None = None
    own: bool = True


class Generated(BaseModel):
    """By input. tokens: greedily, by the stage itself, a stop token among them. grid: whether there are logits without
    the rounding of inputs beside the others, see `harness/store/trace.py:unrounded`.
    """

    tokens: dict[str, list[int]] = Field(default_factory=dict)
    stopped: dict[str, Stopped] = Field(default_factory=dict)
    grid: bool = False


def run(payload: object, report: Reporter) -> dict[str, object]:
    """payload is a `GenerateJob`. Returns a `Generated`."""
    asked = GenerateJob.model_validate(payload)
    with costs_only_this_stage():
        return _generated(asked, report).model_dump(mode="json")


def _generated(asked: GenerateJob, report: Reporter) -> Generated:
    found, job = Generated(), asked.job
    with opener(job)(job, AS_NAMED) as session, driver_of(job.stage, session, job.own_stage) as driver:
        for number, item in enumerate(job.inputs):
            report.progress(number, len(job.inputs), item.id)
            line = Line(driver, asked, item)
            line.follow(job.traces / item.id)
            if asked.own:
                found.tokens[item.id], found.stopped[item.id] = line.own()
        quantises: Any = getattr(session, "quantises_inputs", False)
        if quantises and asked.follow is not None:
            found.grid = True
            with session.inputs_as_they_are():  # type: ignore[attr-defined]
                for item in job.inputs:
                    Line(driver, asked, item).follow(unrounded(job.traces) / item.id)
    return found


@dataclass
class Line:
    """One prompt and what comes after it.

    chosen: the stage's own tokens as long as they are those that it is given. branch: where its first other choice has
    been made: the cache before it.
    """

    driver: Driver
    asked: GenerateJob
    item: JobInput
    chosen: list[int] = field(default_factory=list)
    branch: Cache = None

    @property
    def room(self) -> int:
        """How many tokens can be generated: the last one needs no place in the cache."""
        return min(self.asked.tokens, self.driver.kv_cache_len - len(self.item.tokens) + 1)

    def follow(self, folder: Path) -> None:
        """Write the logits after the prompt and each of the given tokens; the reference gives itself its own."""
        given = None if self.asked.follow is None else self.asked.follow[self.item.id]
        steps = self.room if given is None else len(given)
        logits, cache = self._after_prompt()
        with TraceWriter(folder, steps) as trace:
            if given is not None and not self.asked.own and not self.driver.can.pads:
                self._all_at_once(given, logits, cache, trace)
                return
            for step in range(steps):
                trace.put(LOGITS, logits[None, None], step)
                token = self._note(logits, cache, None if given is None else given[step])
                if given is None and token in self.asked.stops:
                    break
                if step + 1 < steps:
                    logits, cache = self._decode(token, step, cache)

    def _all_at_once(self, given: list[int], logits: Array, cache: Cache, trace: TraceWriter) -> None:
        """A stage that takes steps of any size and whose own way nobody asks for needs one for all tokens."""
        trace.put(LOGITS, logits[None, None])
        if len(given) > 1:
            step = Step("prefill", len(given) - 1, len(self.item.tokens), len(given) - 1)
            rest = self.driver.call(step, given[:-1], cache).logits
            assert rest is not None
            trace.put(LOGITS, rest[None], 1)

    def own(self) -> tuple[list[int], Stopped]:
        """The stage's own tokens to the end, and why they end."""
        tokens, cache = list(self.chosen), self.branch
        while tokens[-1] not in self.asked.stops:
            if len(tokens) >= self.room:
                return tokens, "length" if len(tokens) >= self.asked.tokens else "cache full"
            if cache is None:  # it followed to the end of what it was given, which ended with a stop token
                break
            logits, cache = self._decode(tokens[-1], len(tokens) - 1, cache)
            tokens.append(self._most_likely(logits))
        return tokens, "stop token"

    def _note(self, logits: Array, cache: Cache, given: int | None) -> int:
        """The token to go on with. Notes the stage's own choice, until it is another one."""
        token = self._most_likely(logits)
        if self.branch is None:
            self.chosen.append(token)
            if given is not None and token != given:
                self.branch = cache
        return token if given is None else given

    def _most_likely(self, logits: Array) -> int:
        return int(logits[: self.asked.job.dimensions.tokens].argmax())

    def _after_prompt(self) -> tuple[Array, Cache]:
        """As an app does: all tokens of the prompt but the last by prefill, that one by decode; turn by turn."""
        driver, tokens = self.driver, self.item.tokens
        cache, logits = driver.fresh(), None
        for step in schedule_of(self.item, driver):
            called = driver.call(step, tokens[step.start : step.start + step.valid], cache)
            cache, logits = called.cache, called.logits
        assert logits is not None, "the last step is a decode, which gives logits"
        return np.asarray(logits[-1]), cache

    def _decode(self, token: int, step: int, cache: Cache) -> tuple[Array, Cache]:
        called = self.driver.call(Step("decode", 1, len(self.item.tokens) + step, 1), [token], cache)
        assert called.logits is not None
        return np.asarray(called.logits[-1]), called.cache
