"""What a person sees while a run is under way: bars on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from harness.commands.batch import ModelOutcome
from harness.plain import shown
from harness.processes.scheduler import TaskResult

if TYPE_CHECKING:
    from rich.progress import TaskID

_PLAIN_EVERY = 10.0  # seconds between plain lines of one task


_QUIET = "prepare"  # checks the inputs: what is wrong with them is to be the only line on stderr


class PlainProgress:
    """Lines for logs and pipes: when a task starts, now and then while it works, and when it ends.

    Silent until the inputs have been checked.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def model(self, name: str, number: int, total: int) -> None:
        """The next of several models begins."""
        _say(f"model {number} of {total}: {name}")

    def outcome(self, outcome: ModelOutcome) -> None:
        """A model of several is done."""
        _say(outcome_line(outcome))

    def started(self, name: str) -> None:
        if name != _QUIET:
            self._last[name] = time.monotonic()
            _say(f"{name}: started")

    def progress(self, name: str, done: float, total: float, what: str) -> None:
        now = time.monotonic()
        if now - self._last.get(name, now) >= _PLAIN_EVERY:
            self._last[name] = now
            _say(f"{name}: {what}, {done:g} of {total:g}")

    def ended(self, result: TaskResult) -> None:
        if result.name != _QUIET or result.status == "ok":
            _say(_ending(result))


class BarProgress:
    """A bar per task, with the time it has taken; above them one for all models, if there are several."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[name]:<15}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._ids: dict[str, TaskID] = {}
        self._models: TaskID | None = None

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def model(self, name: str, number: int, total: int) -> None:
        """The next of several models begins: its tasks take the place of the last one's."""
        for task in self._ids.values():
            self._bars.remove_task(task)
        self._ids.clear()
        if self._models is None:
            self._models = self._bars.add_task("", name="all models", total=total)
        self._bars.update(self._models, completed=number - 1, description=shown(f"{number} of {total}: {name}"))

    def outcome(self, outcome: ModelOutcome) -> None:
        """A model of several is done: a line that stays, above the bars."""
        from rich.text import Text

        self._bars.console.print(Text(shown(outcome_line(outcome))), soft_wrap=True)

    def started(self, name: str) -> None:
        if name not in self._ids:
            self._ids[name] = self._bars.add_task("starting", name=name, total=None)

    def progress(self, name: str, done: float, total: float, what: str) -> None:
        self.started(name)
        # A task that has not said how far it is pulses; nobody is shown a bar that stands still.
        self._bars.update(self._ids[name], completed=done, total=total if done else None, description=shown(what))

    def ended(self, result: TaskResult) -> None:
        self.started(result.name)
        text = "done" if result.status == "ok" else f"{result.status}: {result.detail}"
        self._bars.update(self._ids[result.name], completed=1, total=1, description=shown(text))


def _say(line: str) -> None:
    """A whole line in one piece: `print` writes its end by itself, and a signal may come between the two."""
    sys.stderr.write(f"{shown(line)}\n")
    sys.stderr.flush()


def _ending(result: TaskResult) -> str:
    if result.status == "ok":
        return f"{result.name}: done in {result.seconds:.1f} s, {result.peak_rss_mb:.0f} MB"
    return f"{result.name}: {result.status}: {result.detail}"


def outcome_line(outcome: ModelOutcome) -> str:
    """What came of one model of several, in one line."""
    if outcome.record is None:
        return f"{outcome.model}: not run: {outcome.error}"
    fault = outcome.record.first_fault
    where = f", first at {fault.tap} of {fault.hop}" if fault is not None else ""
    return f"{outcome.model}: {outcome.record.verdict} in {outcome.seconds:.1f} s{where}"


def watcher() -> PlainProgress | BarProgress:
    """Bars where stderr is a terminal, else lines."""
    return BarProgress() if sys.stderr.isatty() else PlainProgress()
