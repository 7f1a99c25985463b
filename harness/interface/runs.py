"""A run for scripts and notebooks: made, or opened by name; its verdict, its table of taps, its traces.

In: a model or the name of a run. Out: a `Run`. Errors are `UsageError`s of one line. Imports no framework.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import UsageError
from harness.plain import one_line
from harness.record.record import Fault, Record, read_record, read_taps
from harness.record.runs import find_run
from harness.render.html import REPORT_FILE
from harness.render.numbers import worst_excess
from harness.render.sentences import headline
from harness.system.reading import check_file

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]
_REPORTS = Path("reports")
TRACES = "traces"  # of a run folder, where they were kept


class TraceArrays(Mapping[str, Array]):
    """The taps of one stage on one input, `[1, time, ...]` each, memory-mapped: read where they are touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {path.stem: path for path in sorted(folder.glob("*.npy"))}

    def __getitem__(self, tap: str) -> Array:
        if tap not in self._files:
            raise KeyError(f"no tap {tap!r} in {self.folder}; it has {len(self)}, {next(iter(self), 'none')!r} first")
        path = self._files[tap]
        check_file(path, "run the model again with keep_traces")
        try:
            found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise UsageError(f"{path} is not an array ({one_line(error, 100)}); run the model again") from None
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"<{len(self)} taps in {self.folder}>"


@dataclass(frozen=True)
class Run:
    """A run folder. Everything is read when it is asked for, and once."""

    folder: Path

    @classmethod
    def open(cls, run: str | Path, out: str | Path = _REPORTS) -> Run:
        """run: a folder, `latest` or `MODEL@latest` under `out`. Raises UsageError where there is none."""
        found = cls(find_run(str(run), Path(out)))
        _ = found.record  # a damaged one is told here
        return found

    @cached_property
    def record(self) -> Record:
        """All of `parity.json`."""
        return read_record(self.folder)

    @property
    def verdict(self) -> str:
        """`pass` or `fail`."""
        return self.record.verdict

    @property
    def faults(self) -> list[Fault]:
        """The first fault first."""
        return self.record.faults

    @cached_property
    def taps(self) -> pd.DataFrame:
        """A row for each tap, input and hop: the columns of docs/record.md."""
        return read_taps(self.folder)

    @property
    def report(self) -> Path:
        """The report, a page that needs no network."""
        return self.folder / REPORT_FILE

    def trace(self, stage: str, input_id: str) -> TraceArrays:
        """What a stage computed on an input. Raises UsageError where that was not kept."""
        folder = self.folder / TRACES / stage / input_id
        kept = self.folder / TRACES
        if not kept.is_dir():
            raise UsageError(f"{self.folder} has no traces; run the model with keep_traces=True (--keep-traces)")
        if not folder.is_dir() or kept.resolve() not in folder.resolve().parents:
            there = sorted(f"{path.parent.name}, {path.name}" for path in kept.glob("*/*") if path.is_dir())
            raise UsageError(
                f"{self.folder} has no trace of stage {stage!r} on input {input_id!r}; it has {'; '.join(there[:12])}"
            )
        return TraceArrays(folder)

    def __repr__(self) -> str:
        return f"<Run {self.record.model} {self.record.run_id}: {self.verdict}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict, the hops, where the report is."""
        record = self.record
        rows = "".join(
            f"<tr><td>{_escaped(hop.name)}</td><td>{_escaped(hop.verdict)}</td><td>{_escaped(worst_excess(hop.worst))}</td></tr>"
            for hop in record.hops
        )
        return (
            f"<p><b>{_escaped(self.verdict.upper())} {_escaped(record.model)}</b> {_escaped(headline(record))}</p>"
            f"<table><tr><th>hop</th><th>verdict</th><th>worst excess</th></tr>{rows}</table>"
            f'<p><a href="{_escaped(self.report.absolute().as_uri())}">report</a></p>'
        )


def run(model: str, *, quiet: bool = True, **options: Any) -> Run:
    """Run a model as `edge-parity run` does, and open what came of it.

    options: as the command line calls them, with underscores, e.g. `miniature=True`, `prompt=["..."]`,
    `inputs="inputs.jsonl"`, `stages=["reauthored"]`, `quantize=["dynamic_int8"]`, `kv_cache_len=512`, `hlfb=False` for
    `--no-hlfb`, `mask_as_input=False` for `--mask-inside`, `keep_traces=True`, `out="reports"`.
    quiet: say nothing while it lasts; else lines on stderr.
    Raises UsageError for bad input. A run that fails is a Run like any other: look at its `verdict`.
    """
    from harness.commands.progress import PlainProgress
    from harness.interface.options import options_of
    from harness.pipeline import run as pipeline
    from harness.system.temporary import use_own_temporary_folder

    chosen = options_of(model, options)
    use_own_temporary_folder()
    folder, _ = pipeline.run(chosen, _Silent() if quiet else PlainProgress())
    return Run(folder)


class _Silent:
    """A `Watcher` that says nothing."""

    def started(self, name: str) -> None: ...
    def progress(self, name: str, done: float, total: float, what: str) -> None: ...
    def ended(self, result: object) -> None: ...


def _escaped(text: object) -> str:
    return html.escape(one_line(text))
