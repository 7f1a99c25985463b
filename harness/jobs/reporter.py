"""How a stage speaks while it runs: progress now, facts and failures at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from harness.errors import UsageError


class Reporter(Protocol):
    def progress(self, done: float, total: float, what: str) -> None: ...


class ServingReporter(Reporter, Protocol):
    """What a stage that serves speaks to."""

    def requests(self) -> Iterator[object]:
        """What it is asked, as JSON, one after the other, until nobody asks any more."""

    def answer(self) -> None:
        """Say that it is ready: once it has loaded its model, and after each request."""


class Silent:
    """For tests and for calls from Python: says nothing."""

    def progress(self, done: float, total: float, what: str) -> None:
        pass


@contextmanager
def costs_only_this_stage() -> Iterator[None]:
    """Weights that one version cannot take are what a run is there to report: the others go on, and the findings
    of the audit stay on record. So a UsageError in here crashes the stage instead of ending the command."""
    try:
        yield
    except UsageError as error:
        raise RuntimeError(str(error)) from error
