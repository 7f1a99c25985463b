"""What it takes to get at a run's models again: written with the run, read when somebody asks for their operators.

In: a run under way. Out: `explorer/models.json`, without weights. Imports no framework.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from harness.errors import UsageError
from harness.jobs.prepared import Prepared
from harness.jobs.results import Converted
from harness.names.recipes import GIVEN_FILE
from harness.names.stages import FLOAT, named, split
from harness.names.taps import split_tap
from harness.processes.scheduler import TaskResult
from harness.record.record import write_text
from harness.render.explorer import FOLDER
from harness.spec.find import find_spec
from harness.spec.model import SpecRef
from harness.spec.trust import spec_to_run
from harness.system.reading import read_bytes

FILE = "models.json"
_AGAIN = "run the model again, without --no-cache"


class RunModels(BaseModel):
    """Absolute paths. flatbuffers: recipe ("none" for float32) -> file. spec_named: whether the user named the
    declaration, and not this file of the run folder alone."""

    prepared: Prepared
    spec_file: str
    spec_variable: str
    flatbuffers: dict[str, str] = Field(default_factory=dict)
    spec_named: bool = Field(default=False, exclude=True)

    def with_spec(self, named: str | None) -> RunModels:
        """With the declaration that the user names, if there is one."""
        if named is None:
            return self
        ref = find_spec(named)
        told = {"spec_file": str(ref.file.resolve()), "spec_variable": ref.variable, "spec_named": True}
        return self.model_copy(update=told)

    def check_sources(self) -> None:
        """Raises UsageError when what the PyTorch versions are built of is no longer there, or may not be run."""
        if not Path(self.spec_file).is_file():
            raise UsageError(f"{self.spec_file}, the declaration of this run, is gone; run the model again")
        if not self.spec_named:
            spec_to_run(None, self.spec_file, self.spec_variable)
        if not Path(self.prepared.checkpoint).is_dir():
            raise UsageError(f"{self.prepared.checkpoint}, the checkpoint of this run, is gone; {_AGAIN}")

    def flatbuffer_of(self, stage: str) -> Path:
        """The file that a TFLite stage runs. Raises UsageError when it is no longer there."""
        path = self.flatbuffers.get(split(stage)[1])
        if path is None:
            raise UsageError(f"this run made no flatbuffer for {stage}; run the model again with that stage")
        if not Path(path).is_file():
            raise UsageError(f"{path}, the flatbuffer of {stage}, is gone; {_AGAIN}")
        return Path(path)


def save_models(
    run: Path, prepared: Prepared, ref: SpecRef, results: Mapping[str, TaskResult], own: Path | None
) -> None:
    """run: its folder. ref: the declaration. results: of its tasks. own: the user's flatbuffer, if there is one."""
    given = FLOAT if "tap" in results else GIVEN_FILE
    flatbuffers = {given: str(own.resolve())} if own is not None else {}
    for recipe in (FLOAT, *prepared.recipes):
        found = results.get(named("convert", recipe))
        converted = found.gave(Converted) if found is not None else None
        if converted is not None:
            flatbuffers[recipe] = converted.flatbuffer
    # By those of one block tensors are known of files that carry the names of another version.
    modules = {tap: entry for tap, entry in prepared.modules.items() if split_tap(tap)[0] == 0}
    light = prepared.model_copy(update={"parameters": [], "tables": [], "findings": [], "modules": modules})
    spec = {"spec_file": str(ref.file.resolve()), "spec_variable": ref.variable}
    models = RunModels(prepared=light, flatbuffers=flatbuffers, **spec)
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    write_text(run / FOLDER / FILE, models.model_dump_json())


def load_models(run: Path) -> RunModels:
    """Raises UsageError when the run has none, as runs of earlier versions have not."""
    path = run / FOLDER / FILE
    if not os.path.lexists(path):
        raise UsageError(f"{run} does not say how to get at its models again; run the model again")
    try:
        models = RunModels.model_validate_json(read_bytes(path, "run the model again"))
    except ValidationError as error:
        raise UsageError(f"{path} is damaged ({error.error_count()} errors); run the model again") from None
    return models.model_copy(update={"spec_named": False})  # whatever the file says
