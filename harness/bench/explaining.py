"""A bench's first fault, explained as a run would explain it.

In: a bench, the traces of what was broken and what came of it. Out: the diagnosis.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.bench.outcome import Outcome
from harness.bench.workbench import Bench
from harness.compare.traces import FLOAT32_RUNS
from harness.explain.decoder import Decoder
from harness.explain.job import explain_fault, reference
from harness.explain.task import FaultPlace, fault_of
from harness.record.record import Diagnosis


@functools.cache
def reference_of(bench: Bench) -> Decoder:
    """The published model that hypotheses change, for a bench's own checkpoint."""
    return reference(bench.model, bench.prepared)


@contextmanager
def joined(bench: Bench, broken: Path) -> Iterator[Path]:
    """A folder of traces: the broken stages', and for stages that are not there the sound ones."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as temporary:
        folder = Path(temporary)
        for stage in dict.fromkeys((*bench.stages, *FLOAT32_RUNS)):
            own = broken / stage
            (folder / stage).symlink_to(own if own.is_dir() else bench.sound / stage)
        yield folder


def first_fault(outcome: Outcome) -> FaultPlace:
    """The first fault, as the explanation is asked about it."""
    assert outcome.fault is not None, "the fault was not seen"
    return fault_of(outcome.fault.hop, outcome.fault.tap, outcome.frame)


def explain(bench: Bench, broken: Path, outcome: Outcome, decoder: Decoder | None = None) -> list[Diagnosis]:
    """The causes of an outcome's first fault, best first.

    broken: traces of the broken stages. decoder: of what Hugging Face loads, where that is not the bench's own.
    Raises NotCoveredError.
    """
    with joined(bench, broken) as traces:
        return explain_fault(first_fault(outcome), bench.prepared, decoder or reference_of(bench), traces)
