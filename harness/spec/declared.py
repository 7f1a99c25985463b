"""Declarations that only running a file shows: made by a function, imported, or derived of a model of another file.

In: a spec file. Out: what it declares, as names and variables. The file runs in a process of its own, which has the
frameworks, so that a crash or an endless loop costs nothing but that process.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

from harness.errors import TaskFaultError, UsageError

_SECONDS = 300.0


class FoundModel(TypedDict):
    """A model that a file holds once it has run."""

    variable: str
    name: str
    route: str  # that it names
    own: bool  # whether it was made in that file, and not imported from another


_known: dict[tuple[str, int, int], list[FoundModel]] = {}


def run_for_declarations(file: Path) -> list[FoundModel]:
    """The models that a file holds once it has run; in this process only once. Raises UsageError where it fails."""
    facts = file.stat()
    key = (str(file.resolve()), facts.st_mtime_ns, facts.st_size)
    if key not in _known:
        _known[key] = run_in_a_process(file)
    return _known[key]


def run_in_a_process(file: Path) -> list[FoundModel]:
    """What the file holds once it has run in a process of its own. Raises UsageError, TaskFaultError."""
    from harness.processes.scheduler import Json, Task, run_tasks

    with tempfile.TemporaryDirectory(prefix="edge-parity-") as folder:
        log = Path(folder) / "declarations.log"
        told = {"file": str(file.resolve())}
        task = Task("declarations", "harness.spec.declared:held", told, torch=True, timeout=_SECONDS)
        result = run_tasks([task], log, _Silent())["declarations"]
    answer = result.gave(Json)
    if answer is not None:
        return list(answer.root["models"])
    said = result.detail.split(";")[0]
    if result.status == "crashed" and not said.startswith("killed by"):
        raise TaskFaultError(f"reading {file} broke off with {said}")
    raise UsageError(f"{file} could not be run: {said}; fix the spec file")


class _Silent:
    """The file runs before anything is shown of a run."""

    def started(self, name: str) -> None: ...
    def progress(self, name: str, done: float, total: float, what: str) -> None: ...
    def ended(self, result: object) -> None: ...


def held(payload: Mapping[str, str], report: object) -> dict[str, list[FoundModel]]:
    """What a process of its own does: run the file and look at what it holds."""
    from harness.spec.load import run_spec

    file = Path(payload["file"])
    return {"models": list(_models_of(run_spec(file), file))}


def _models_of(module: ModuleType, file: Path) -> Iterator[FoundModel]:
    from harness.spec.model import Model

    imported = _imported(file)
    others = [vars(other) for other in list(sys.modules.values()) if other is not module and hasattr(other, "__dict__")]
    seen: set[int] = set()
    for variable, value in list(vars(module).items()):
        if not isinstance(value, Model) or id(value) in seen:
            continue
        seen.add(id(value))
        own = variable not in imported and not any(_holds(names, variable, value) for names in others)
        yield {"variable": variable, "name": value.name, "route": value.route, "own": own}


def _holds(names: Mapping[str, Any], variable: str, value: object) -> bool:
    """Whether another module has the same object by the same name, as with `from models.tiny_llama import *`."""
    return names.get(variable) is value


def _imported(file: Path) -> set[str]:
    """The names that a file takes from elsewhere."""
    nodes = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in nodes for alias in node.names}
