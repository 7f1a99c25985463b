"""Stages that keep their models, each in a process of its own, for whoever has many inputs one after the other.

In: a task per stage, whose target serves (`stages/session.py`). Out: `Servers`, which trace an input in all stages at
once. A process that ends or hangs raises `StageEndedError`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

from harness.errors import UsageError
from harness.jobs.job import JobInput
from harness.processes import scheduler as process
from harness.processes import server
from harness.processes.scheduler import Task, TaskResult, Watcher
from harness.processes.worker import peak_rss_mb

_LAST_WORDS = 5.0  # seconds that a process has to end by itself once it has closed its pipe


class StageEndedError(Exception):
    """A stage crashed or took too long. result: what became of it."""

    def __init__(self, result: TaskResult) -> None:
        super().__init__(f"{result.name} {result.status}: {result.detail}")
        self.result = result


class Servers:
    """Processes that wait for inputs."""

    def __init__(self, running: Mapping[str, process.Running], log: Path, watcher: Watcher) -> None:
        self._running = running
        self._log = log
        self._watcher = watcher

    def trace(self, item: JobInput, stages: Sequence[str] = ()) -> None:
        """Have the stages trace an input side by side; none named: all. Returns when the last one has."""
        chosen = [self._running[name] for name in stages or self._running]
        question = json.dumps(item.model_dump()).encode()
        for entry in chosen:
            try:
                entry.pipe.send_bytes(question)
            except OSError:
                self._lost(entry)
        self._answered(chosen)

    def _answered(self, asked: Sequence[process.Running]) -> None:
        """Wait until all have answered."""
        began = time.monotonic()
        waiting = {entry.task.name: entry for entry in asked}
        while waiting:
            open_pipes = [entry.pipe for entry in waiting.values() if not entry.pipe.closed]
            wait([*open_pipes, *(entry.process.sentinel for entry in waiting.values())], timeout=1.0)
            for name, entry in list(waiting.items()):
                if self._has_answered(entry):
                    del waiting[name]
                elif entry.pipe.closed or not entry.process.is_alive():
                    self._lost(entry)
                elif time.monotonic() - began > entry.task.timeout:
                    entry.timed_out = True
                    self._lost(entry)

    def _has_answered(self, entry: process.Running) -> bool:
        while not entry.pipe.closed and entry.pipe.poll():
            try:
                kind, content = entry.pipe.recv()
            except (EOFError, OSError):
                entry.pipe.close()
                return False
            if kind == "answer":
                return True
            if kind == "usage":
                raise UsageError(content)
            if kind == "error":
                entry.detail = content
            elif kind == "progress":
                self._watcher.progress(entry.task.name, *content)
        return False

    def _lost(self, entry: process.Running) -> None:
        self._has_answered(entry)  # its last words
        entry.process.join(_LAST_WORDS)
        process.kill(entry.process)
        entry.value = None
        raise StageEndedError(process.result_of(entry, self._log))


@contextmanager
def serving(tasks: Sequence[Task], log: Path, watcher: Watcher) -> Iterator[Servers]:
    """Start a process per task; yields when all have loaded their models. They end with the block, however it ends.

    Raises StageEndedError for one that cannot load, UsageError where an input of the command is wrong.
    """
    running: dict[str, process.Running] = {}
    try:
        if any(task.torch for task in tasks):
            server.warm_up(log)
        for task in sorted(tasks, key=lambda task: task.torch):
            if task.torch:
                server.wait_until_warm()
            try:
                running[task.name] = process.start(task, {}, log, duplex=True)
            except server.ServerLostError:
                raise StageEndedError(TaskResult(task.name, "crashed", detail=process.SERVER_LOST)) from None
            watcher.started(task.name)
        servers = Servers(running, log, watcher)
        servers._answered(list(running.values()))
        for name, entry in running.items():
            watcher.ended(
                TaskResult(name, "ok", round(time.monotonic() - entry.began, 3), peak_rss_mb(entry.process.pid))
            )
        yield servers
    finally:
        for entry in running.values():
            process.kill(entry.process)
