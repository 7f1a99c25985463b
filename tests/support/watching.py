"""What is told of tasks in tests, and remembers it."""

from __future__ import annotations

from harness.processes.scheduler import TaskResult


class Watcher:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.ends: list[str] = []

    def started(self, name: str) -> None:
        pass

    def progress(self, name: str, done: float, total: float, what: str) -> None:
        self.said.append(what)

    def ended(self, result: TaskResult) -> None:
        self.ends.append(result.name)
