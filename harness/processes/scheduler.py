"""Run stages, each in a process of its own, side by side as far as memory and cores allow.

In: tasks with what they need. Out: a `TaskResult` per task, whatever happened to it: a segmentation fault,
a kill for memory or a hang costs that task and not the run.

Tasks that need torch are forked from one server process that has imported the frameworks once (four
seconds of it); the others start a fresh interpreter in a tenth of a second.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, RootModel

from harness.errors import UsageError
from harness.processes import server, worker
from harness.processes.server import POLL
from harness.system.memory import memory

Status = Literal["ok", "crashed", "timeout", "skipped"]
Payload = dict[str, Any]  # what a process is told: JSON
Results = Mapping[str, "TaskResult"]

SERVER_LOST = "the process that torch stages are forked from ended twice"
_NOBODY_KNOWS = 255  # the exit code that multiprocessing gives where the server cannot tell it any more
_MUCH = 0.5  # share of the memory; whom the system kills for memory as a rule has the most of it


class Json(RootModel[dict[str, Any]]):
    """What a process gives where whoever asked reads the JSON itself."""


Given = TypeVar("Given", bound=BaseModel)


@dataclass(frozen=True)
class Task:
    """Work for one process.

    target: `module:function`, called as `function(payload, reporter)`; returns a JSON-able dict.
    gives: the class of what it returns: the JSON is read as that once, where it arrives.
    payload: its argument, or a function of the results so far that makes it.
    needs: tasks that must have ended well before; if one did not, this one is skipped.
    memory_mb: what it is expected to take at its peak, without what a torch task shares with the server that forks
        it; only a guide to what may run beside it.
    alone: nothing may run beside it.
    seconds: how long it takes beside the others, see `harness/processes/packing.py`.
    """

    name: str
    target: str
    payload: Payload | Callable[[Results], Payload]
    gives: type[BaseModel] = Json
    needs: tuple[str, ...] = ()
    memory_mb: float = 500
    torch: bool = False
    timeout: float = 3600
    alone: bool = False
    seconds: float = 1


@dataclass
class TaskResult:
    """What became of a task."""

    name: str
    status: Status
    seconds: float = 0.0  # wall time
    peak_rss_mb: float = 0.0  # of its process, MB (10^6 bytes)
    value: BaseModel | None = None  # what it gave; None unless it ended well
    detail: str = ""  # what happened, for one that did not

    def gave(self, kind: type[Given]) -> Given | None:
        """What it gave, if that is of a kind; None where it ended badly, or gives something else."""
        return self.value if isinstance(self.value, kind) else None


class Watcher(Protocol):
    """Is told what goes on; draws progress bars, or plain lines."""

    def started(self, name: str) -> None: ...
    def progress(self, name: str, done: float, total: float, what: str) -> None: ...
    def ended(self, result: TaskResult) -> None: ...


@dataclass
class Running:
    task: Task
    process: Any
    pipe: Connection
    began: float
    peak_mb: float = 0.0
    value: BaseModel | None = None
    detail: str = ""
    usage: str | None = None
    timed_out: bool = False


def run_tasks(
    tasks: list[Task], log: Path, watcher: Watcher, *, cores: int = 2, memory_mb: float = 4000
) -> dict[str, TaskResult]:
    """Run every task once all it needs is done. At most `cores` at once, within `memory_mb` by their estimates and
    with the server that forks torch stages; a task that is larger than that runs alone. Should that server end, it is
    started again once, with the tasks that it took along; if it ends again they have crashed.

    Raises UsageError when a task found that an input is wrong. On any exception, Ctrl-C included,
    every task is killed before it leaves. The server stays for the next call, but not over Ctrl-C or a mistake of ours.
    """
    results: dict[str, TaskResult] = {}
    waiting = list(tasks)
    running: list[Running] = []
    restarted = False
    try:
        if any(task.torch for task in tasks):
            server.warm_up(log)  # a signal that came while the server was started is raised in here
        while waiting or running:
            _skip_hopeless(waiting, results, watcher)
            for task in _startable(waiting, running, results, cores, memory_mb):
                waiting.remove(task)
                _try_to_start(task, running, results, log, watcher)
            if not running:
                time.sleep(POLL / 10)  # until the server that forks torch stages has imported the frameworks
                continue
            _listen(running, watcher)
            ended = [entry for entry in running if _ended(entry)]
            taken = [entry for entry in ended if _went_with_the_server(entry)]
            again = [] if restarted else taken
            for entry in ended:
                running.remove(entry)
                if entry in again:
                    waiting.insert(0, entry.task)
                    continue
                if entry in taken:
                    entry.detail = SERVER_LOST
                results[entry.task.name] = result_of(entry, log)
                watcher.ended(results[entry.task.name])
            if again:
                restarted = True
                server.restart(log)
    except UsageError:
        raise  # the server is good for the next model
    except BaseException:
        server.end()
        raise
    finally:
        for entry in running:
            kill(entry.process)
    return results


def _try_to_start(
    task: Task, running: list[Running], results: dict[str, TaskResult], log: Path, watcher: Watcher
) -> None:
    try:
        running.append(start(task, results, log))
        watcher.started(task.name)
    except server.ServerLostError:
        results[task.name] = TaskResult(task.name, "crashed", detail=f"{SERVER_LOST}; {log.name} has what it said")
        watcher.ended(results[task.name])


def _skip_hopeless(waiting: list[Task], results: dict[str, TaskResult], watcher: Watcher) -> None:
    """Whatever rests on a task that did not end well, over however many others, and in whatever order they wait."""
    while hopeless := [(task, failed) for task in waiting if (failed := _failed_need(task, results))]:
        for task, failed in hopeless:
            waiting.remove(task)
            results[task.name] = TaskResult(task.name, "skipped", detail=f"{failed} did not finish")
            watcher.ended(results[task.name])


def _failed_need(task: Task, results: Results) -> str:
    return next((need for need in task.needs if need in results and results[need].status != "ok"), "")


def _startable(
    waiting: list[Task], running: list[Running], results: Results, cores: int, memory_mb: float
) -> list[Task]:
    chosen: list[Task] = []
    used = sum(entry.task.memory_mb for entry in running) + (server.MEMORY_MB if server.is_warming() else 0)
    importing = server.is_warming() and not server.is_ready()  # which keeps a core busy
    for task in waiting:
        ready = all(need in results for need in task.needs) and (not task.torch or server.is_ready())
        beside = [entry.task for entry in running] + chosen
        fits = len(beside) + importing < cores and used + task.memory_mb <= memory_mb
        if ready and (not beside or (fits and not task.alone and not any(other.alone for other in beside))):
            chosen.append(task)
            used += task.memory_mb
    return chosen


def start(task: Task, results: Results, log: Path, duplex: bool = False) -> Running:
    """duplex: whether the process may be asked things while it runs. Raises ServerLostError."""
    payload = task.payload(results) if callable(task.payload) else task.payload
    try:
        return _start(task, payload, log, duplex)
    except (OSError, EOFError):
        if not task.torch or not server.has_ended(server.DYING):
            raise
    server.restart(log)
    server.wait_until_warm()
    try:
        return _start(task, payload, log, duplex)
    except (OSError, EOFError):
        if server.has_ended(server.DYING):
            raise server.ServerLostError from None
        raise


def _start(task: Task, payload: Payload, log: Path, duplex: bool) -> Running:
    ours, theirs = multiprocessing.Pipe(duplex=duplex)
    context: Any = server.started(log) if task.torch else multiprocessing.get_context("spawn")
    process = context.Process(
        target=worker.main, args=(task.name, task.target, payload, theirs, str(log), os.getpid()), daemon=True
    )
    with server.output_to(log):
        process.start()
    theirs.close()
    return Running(task, process, ours, time.monotonic())


def _went_with_the_server(entry: Running) -> bool:
    """Whether a process ended because the server that it was forked from did: it gave nothing and said nothing."""
    gave = entry.value is not None or entry.detail or entry.usage is not None or entry.timed_out
    if gave or not entry.task.torch or entry.process.exitcode != _NOBODY_KNOWS:
        return False
    return server.has_ended(server.DYING)  # its files are closed a moment before it has ended


def _listen(running: list[Running], watcher: Watcher) -> None:
    handles: dict[Any, Running] = {entry.pipe: entry for entry in running if not entry.pipe.closed}
    ready = wait([*handles, *(entry.process.sentinel for entry in running)], timeout=POLL)
    for handle in ready:
        entry = handles.get(handle)
        if entry is not None:
            _receive(entry, watcher)
    for entry in running:
        entry.peak_mb = max(entry.peak_mb, worker.peak_rss_mb(entry.process.pid))
        if time.monotonic() - entry.began > entry.task.timeout and entry.process.is_alive():
            entry.timed_out = True
            kill(entry.process)


def _receive(entry: Running, watcher: Watcher) -> None:
    try:
        while entry.pipe.poll():
            kind, content = entry.pipe.recv()
            if kind == "progress":
                watcher.progress(entry.task.name, *content)
            elif kind == "done":
                entry.value = entry.task.gives.model_validate(content["value"])
                entry.peak_mb = max(entry.peak_mb, content["peak_rss_mb"])
            elif kind == "usage":
                entry.usage = content
            else:
                entry.detail = content
    except (EOFError, OSError):
        entry.pipe.close()


def _ended(entry: Running) -> bool:
    return not entry.process.is_alive() and (entry.pipe.closed or not entry.pipe.poll())


def result_of(entry: Running, log: Path) -> TaskResult:
    entry.process.join()
    seconds = time.monotonic() - entry.began
    result = TaskResult(entry.task.name, "ok", round(seconds, 3), round(entry.peak_mb, 1))
    if entry.usage is not None:
        raise UsageError(entry.usage)
    if entry.value is not None:
        result.value = entry.value
    elif entry.timed_out:
        result.status, result.detail = "timeout", f"ended after its time limit of {entry.task.timeout:g} s"
    else:
        result.status, result.detail = "crashed", entry.detail or _exit_text(entry)
    if result.status != "ok":
        result.detail += f"; {log.name} has what it said"
    return result


def _exit_text(entry: Running) -> str:
    code = entry.process.exitcode
    if code is None or code >= 0:
        return f"ended with exit code {code} and gave no result"
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        # One that had little is more likely ended by a person, and a figure would accuse memory.
        if entry.peak_mb * 1e6 < _MUCH * memory().total:
            return f"killed by {name} (by somebody, or by the system when memory runs out)"
        return f"killed by {name} at {entry.peak_mb:.0f} MB, as the system does when memory runs out"
    return f"killed by {name}"


def kill(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError, AttributeError, ValueError):
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join(5)
