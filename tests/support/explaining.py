"""A bench's faults, explained as a run would explain them.

In: a bench and what to break. Out: the first fault and its diagnosis.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.breaking import Tensors, write_changed
from harness.bench.explaining import first_fault, joined, reference_of
from harness.bench.workbench import Bench
from harness.explain.decoder import Decoder
from harness.explain.job import ExplainRequest, explain_fault, reference, save_run
from harness.record.record import Diagnosis, Fault
from harness.spec.model import GenerativeModel


@dataclass(frozen=True)
class Explained:
    fault: Fault
    diagnosis: list[Diagnosis]

    @property
    def names(self) -> list[str]:
        return [entry.hypothesis for entry in self.diagnosis]

    @property
    def best(self) -> Diagnosis:
        assert self.diagnosis, f"nothing explains {self.fault.hop} at {self.fault.tap}"
        return self.diagnosis[0]


def _explain(
    bench: Bench, broken: Path, decoder: Decoder | None = None, keep: Path | None = None, flatbuffer: Path | None = None
) -> Explained:
    outcome = bench.judge(broken)
    assert outcome.fault is not None, "the fault was not seen"
    fault = first_fault(outcome)
    with joined(bench, broken) as traces:
        found = explain_fault(fault, bench.prepared, decoder or reference_of(bench), traces, keep)
    if keep is not None:
        request = ExplainRequest(
            prepared=bench.prepared,
            spec_file=str(bench.ref.file),
            spec_variable=bench.ref.variable,
            traces=traces,
            folder=keep,
            faults=[fault],
            flatbuffer=str(flatbuffer or ""),
            plan=str(bench.tapped[1]) if flatbuffer else "",
        )
        save_run(request)
    for entry in found:
        print(f"explained: {entry.hop} {entry.tap} {entry.hypothesis} {entry.explains:.4f}: {entry.detail}")
    return Explained(outcome.fault, found)


def explain_reauthored(
    bench: Bench,
    change: Callable[[Any], Any] = lambda network: None,
    model: GenerativeModel | None = None,
    keep: Path | None = None,
) -> Explained:
    """Break the re-authored model: `change` gets the loaded network, `model` is another declaration of it.

    keep: where its evidence is to stay.
    """
    assert bench.sound, "before anything is broken"
    with tempfile.TemporaryDirectory(dir=bench.folder) as temporary:
        bench.trace(bench.own_stage, Path(temporary), model=model, change=change)
        return _explain(bench, Path(temporary), keep=keep)


def explain_checkpoint(
    bench: Bench,
    change: Callable[[Tensors], Any] = lambda tensors: None,
    config: Callable[[dict[str, Any]], Any] = lambda config: None,
) -> Explained:
    """Break what Hugging Face loads."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as temporary:
        folder = Path(temporary)
        checkpoint = folder / "checkpoint"
        write_changed(bench.checkpoint, checkpoint, change, config)
        for stage in ("oracle", "hf"):
            bench.trace(stage, folder, checkpoint=checkpoint)
        prepared = bench.prepared.model_copy(update={"checkpoint": str(checkpoint)})
        return _explain(bench, folder, reference(bench.model, prepared))


def explain_flatbuffer(
    bench: Bench, change: Callable[[Path], Any], stage: str = "tflite-xnnpack", keep: Path | None = None
) -> Explained:
    """Break a copy of the flatbuffer: `change` gets its path. keep: where its evidence is to stay, and the file."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as temporary:
        folder = Path(temporary)
        file, tapped = folder / "broken.tflite", folder / "tapped.tflite"
        for path, source in ((file, bench.flatbuffer), (tapped, bench.tapped[0])):
            shutil.copyfile(source, path)
            change(path)
        bench.trace(stage, folder, flatbuffer=file, tapped=(tapped, bench.tapped[1]))
        if keep is None:
            return _explain(bench, folder)
        keep.mkdir(parents=True, exist_ok=True)
        return _explain(bench, folder, keep=keep, flatbuffer=shutil.copyfile(file, keep / "broken.tflite"))


def explain_as_it_is(bench: Bench, nothing: Path) -> Explained:
    """Explain what is wrong with a model that nobody broke. nothing: an empty folder."""
    return _explain(bench, nothing)
