"""Work of this process that need not wait for all tasks: it begins when those it rests on have ended.

In: what watches the tasks, and the work. Out: a watcher that starts the work, and what came of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Generic, TypeVar

from harness.processes.scheduler import Results, TaskResult, Watcher

T = TypeVar("T")
StillWanted = Callable[[], None]


class BackgroundWork(Generic[T]):
    """Watches tasks for another watcher too, and starts `work` in a thread when all that it `needs` have ended.

    work: given the results of the tasks so far and a function to call now and then, which raises CancelledError once
    nobody waits for the work any more.
    """

    def __init__(self, watcher: Watcher, needs: Sequence[str], work: Callable[[Results, StillWanted], T]) -> None:
        self._watcher = watcher
        self._missing = set(needs)
        self._results: dict[str, TaskResult] = {}
        self._work = work
        self._thread: threading.Thread | None = None
        self._outcome: Future[T] = Future()
        self._unwanted = threading.Event()

    def started(self, name: str) -> None:
        self._watcher.started(name)

    def progress(self, name: str, done: float, total: float, what: str) -> None:
        self._watcher.progress(name, done, total, what)

    def ended(self, result: TaskResult) -> None:
        self._watcher.ended(result)
        self._results[result.name] = result
        self._missing.discard(result.name)
        if not self._missing and self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(dict(self._results),), daemon=True)
            self._thread.start()

    def result(self) -> T:
        """What the work returned, once it has; raises what it raised, and RuntimeError before its tasks have ended."""
        if self._thread is None:
            raise RuntimeError(f"not begun: {', '.join(sorted(self._missing))} did not end")
        return self._outcome.result()

    def stop(self) -> None:
        """Have the work end soon, if it still runs, and wait for that."""
        self._unwanted.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, results: Results) -> None:
        try:
            self._outcome.set_result(self._work(results, self._still_wanted))
        except BaseException as error:
            self._outcome.set_exception(error)

    def _still_wanted(self) -> None:
        if self._unwanted.is_set():
            raise CancelledError


@contextmanager
def in_background(
    watcher: Watcher, needs: Sequence[str], work: Callable[[Results, StillWanted], T]
) -> Iterator[BackgroundWork[T]]:
    """See `BackgroundWork`. After it the work has ended, whatever was raised within."""
    under_way = BackgroundWork(watcher, needs, work)
    try:
        yield under_way
    finally:
        under_way.stop()
