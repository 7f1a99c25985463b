"""Several models in one go: one after the other, and no failure of one stops the rest.

In: names, and what runs one of them. Out: an `ModelOutcome` per model, in order. Knows no option and no framework.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.commands.exits import FAULT, WRONG, explained
from harness.record.record import Record

# The worst last. A run that could not start says nothing at all of its model, a crash says less than a failure.
_SEVERITY = (0, 1, 3, WRONG, FAULT)


@dataclass(frozen=True)
class ModelOutcome:
    """What came of one model: its record and folder, or the one line it ended with. seconds: wall time.

    not_run: the exit code of a model without a record.
    """

    model: str
    seconds: float
    record: Record | None = None
    folder: Path | None = None
    error: str = ""
    not_run: int = WRONG

    @property
    def exit_code(self) -> int:
        return self.not_run if self.record is None else self.record.exit_code


def run_each(models: Iterable[str], run: Callable[[str], tuple[Path, Record]]) -> Iterator[ModelOutcome]:
    """Run the models one after the other, never two at once, and yield what came of each.

    Whatever a model raises is its outcome, as one line: bad input in its own words, a mistake of ours with the place
    where it was raised and where its traceback is. KeyboardInterrupt goes through.
    """
    for model in models:
        began = time.monotonic()
        record, folder, error, code = None, None, "", WRONG
        try:
            folder, record = run(model)
        except Exception as broken:
            error, code = explained(broken)
        yield ModelOutcome(model, time.monotonic() - began, record, folder, error, code)


def worst_exit(outcomes: Sequence[ModelOutcome]) -> int:
    """The worst of all: 4 if Edge Parity broke off, else 2 if a model could not be run, else 3 if a stage
    crashed, else 1 if parity does not hold, else 0."""
    return max((outcome.exit_code for outcome in outcomes), key=_SEVERITY.index)
