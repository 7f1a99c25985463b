"""How a stage speaks while it runs: progress now, facts and failures at the end."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    def progress(self, done: float, total: float, what: str) -> None: ...


class Silent:
    """For tests and for calls from Python: says nothing."""

    def progress(self, done: float, total: float, what: str) -> None:
        pass
