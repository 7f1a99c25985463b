"""What will and will not work on this machine, and how to fix it.

In: the installed distributions, the machine and the caches. Out: one `Check` per question. Nothing heavy is
imported: the versions come from metadata, so the answer is there at once even where a framework is broken. Where a
variable is set that they may refuse, a process of its own imports them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.errors import UsageError
from harness.plain import one_line, shown
from harness.processes.refusals import variables_set
from harness.system.extras import DISTRIBUTIONS, install, lacking
from harness.system.memory import memory

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from rich.console import Console

DISTRIBUTION = "edge-parity"
# -B, because the stamp of a finished install says nothing about what was changed in .venv by hand.
REINSTALL = "run 'make -B venv' in the checkout"
# An extra that 'make venv' leaves out -> what brings it.
BROUGHT_BY = {extra: install(extra) for extra in DISTRIBUTIONS}

GB = 1_000_000_000
_IMPORT_SECONDS = 180
# Measured on SmolLM2-135M: peak of its conversion; flatbuffer, tapped copy, weights and float64 traces in the cache.
CONVERSION_BYTES = 4_700_000_000
CACHE_BYTES = 3 * GB
# Of its traces while a run lasts (six inputs, eight traces), beside a few megabytes of report that stay.
REPORT_BYTES = 5 * GB

# What each extra of the distribution is for.
OPTIONAL = {
    "demo": "real trained weights of SmolLM2 (without them a run uses a miniature)",
    "explorer": "'edge-parity explore', which shows a run in Model Explorer",
    "keras": "models that are declared as a KerasModel",
    "litert-lm": "'edge-parity bundle FILE --check MODEL', which asks the engine that apps use",
    "dev": "'make check', 'make test' and the gate in suites/",
}

Status = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Check:
    """One question and its answer. `remedy` is empty when there is nothing to fix."""

    name: str
    status: Status
    what: str
    remedy: str = ""


def examine(reports: Path = Path("reports")) -> list[Check]:
    """Every check, in the order a person should read them. reports: where runs land."""
    checks = [
        _python(),
        *_distributions(),
        *_torch_build(),
        *_variables(),
        *_weights(),
        *_extras(),
        *_flex(),
        _memory(),
        _cores(),
    ]
    return [*checks, *_cache(), _disk("disk for runs", reports, REPORT_BYTES, "--out names another folder")]


def works(checks: Iterable[Check]) -> bool:
    """Whether nothing is missing. A warning does not stop a run."""
    return all(check.status != "missing" for check in checks)


def as_json(checks: Sequence[Check]) -> str:
    """`{"works": true, "checks": [{"name", "status", "what", "remedy"}, ...]}`."""
    return json.dumps({"works": works(checks), "checks": [asdict(check) for check in checks]}, indent=1)


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """A line per check and, under what is not in order, how to fix it."""
    from rich.text import Text

    styles = {"ok": "green", "warning": "yellow", "missing": "bold red"}
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        line = Text(f"{check.status:<8}", style=styles[check.status])
        line.append(f"{check.name:<{width}}  ", style="bold").append(shown(check.what), style="default")
        console.print(line, soft_wrap=True)
        if check.remedy and check.status != "ok":
            console.print(Text(f"{'':8}{'':{width}}  -> {shown(check.remedy)}"), soft_wrap=True)
    bad = [check.name for check in checks if check.status == "missing"]
    verdict = f"will not work here: {', '.join(bad)}" if bad else "a run will work here"
    console.print(Text(verdict, style="bold red" if bad else "bold green"), soft_wrap=True)


def _python() -> Check:
    version = platform.python_version()
    what = f"{version} on {platform.system()} {platform.machine()}"
    try:
        wanted = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
        from packaging.specifiers import SpecifierSet
    except ImportError:
        # PackageNotFoundError is an ImportError; the distributions' check reports it.
        return Check("python", "ok", what)
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Check("python", "ok", what)
    return Check("python", "missing", f"{what}; needs {wanted}", "select one: make PYTHON=python3.11 clean venv")


def _requirements(extra: str = "") -> list[Requirement]:
    """The requirements of one extra, or of the package itself, from its own metadata."""
    from packaging.requirements import Requirement

    listed = [Requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or []]
    applies = [item for item in listed if item.marker is None or item.marker.evaluate({"extra": extra})]
    base = {str(item) for item in listed if item.marker is None or item.marker.evaluate({"extra": ""})}
    return [item for item in applies if not extra or str(item) not in base]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _distributions() -> list[Check]:
    try:
        requirements = _requirements()
    except importlib.metadata.PackageNotFoundError:
        return [Check("distributions", "missing", f"{DISTRIBUTION} itself is not installed", REINSTALL)]
    except ImportError as error:
        return [Check("distributions", "missing", f"{error.name} is not installed", REINSTALL)]
    return [_distribution(requirement) for requirement in requirements]


def _distribution(requirement: Requirement) -> Check:
    version = _installed(requirement.name)
    wanted = str(requirement.specifier)
    if version is None:
        return Check(requirement.name, "missing", f"not installed; needs {wanted}", REINSTALL)
    # A local tag such as +cpu satisfies a pin without one.
    if requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, "ok", version)
    return Check(requirement.name, "warning", f"{version}, measured with {wanted}: numbers may differ", REINSTALL)


def _variables() -> list[Check]:
    """Variables that torch and transformers may refuse when they are imported; where none is set, nothing is run."""
    given = ", ".join(variables_set())
    if not given:
        return []
    command = [sys.executable, "-c", "import torch, transformers.modeling_utils"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False)
    if ended.returncode == 0:
        return [Check("variables", "ok", f"torch and transformers take {given}")]
    said = one_line((ended.stderr.strip().splitlines() or ["no word"])[-1], 160)
    return [
        Check("variables", "missing", f"torch or transformers cannot be imported: {said}", f"unset some of {given}")
    ]


def _torch_build() -> list[Check]:
    """A CUDA build of torch without the CUDA libraries cannot be imported at all. Looked up, not imported."""
    found = importlib.util.find_spec("torch")
    folders = found.submodule_search_locations if found else None
    if not folders:
        return []
    if not any(list(Path(folder, "lib").glob("libtorch_cuda.*")) for folder in folders):
        return [Check("torch build", "ok", "CPU")]
    if importlib.util.find_spec("nvidia") is None:
        return [Check("torch build", "missing", "CUDA build without its libraries: it cannot be imported", REINSTALL)]
    return [Check("torch build", "ok", "CUDA (runs use the CPU)")]


def _weights() -> list[Check]:
    """Each distribution of the extra `demo`: is the GGUF that it carries really there?"""
    try:
        requirements = _requirements("demo")
    except ImportError:
        return []
    checks = []
    for requirement in requirements:
        name = f"weights {requirement.name}"
        remedy = f"{REINSTALL}, or name a checkpoint with --checkpoint; until then a run uses a miniature"
        try:
            listed = importlib.metadata.distribution(requirement.name).files or []
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(name, "warning", "not installed", remedy))
            continue
        files = [Path(str(file.locate())) for file in listed if file.suffix == ".gguf"]
        there = [file for file in files if file.is_file()]
        if there and len(there) == len(files):
            checks.append(Check(name, "ok", ", ".join(f"{file.name}, {_size(file.stat().st_size)}" for file in there)))
        else:
            checks.append(Check(name, "warning", "installed, but its GGUF file is gone", remedy))
    return checks


def _extras() -> list[Check]:
    checks = []
    for extra, purpose in OPTIONAL.items():
        try:
            results = [_distribution(requirement) for requirement in _requirements(extra)]
        except ImportError:
            return []
        bad = [f"{check.name} ({check.what})" for check in results if check.status != "ok"]
        bad = bad or [f"{name} (not installed)" for name in lacking(extra)]
        what = f"{', '.join(bad)}: needed for {purpose}" if bad else purpose
        checks.append(
            Check(f"extra {extra}", "warning" if bad else "ok", what, BROUGHT_BY.get(extra, REINSTALL) if bad else "")
        )
    return checks


def _flex() -> list[Check]:
    """The environment for files that take and give text. Nothing but `--generate` on a Keras model looks for it."""
    from harness.store.flex import BYTES, INSTALL, RUNTIME, interpreter

    try:
        from harness.store.cache import Cache

        found = interpreter(Cache.standard())
    except (ImportError, UsageError):  # the cache's own check says so
        return []
    if found is not None:
        return [Check("flex", "ok", f"{RUNTIME}, for files that take and give text")]
    what = f"not built: {RUNTIME} run files of Keras models that take and give text"
    return [Check("flex", "warning", what, f"'{INSTALL}' builds it ({_size(BYTES)}); nothing else needs it")]


def _memory() -> Check:
    try:
        found = memory()
    except ImportError:
        return Check("memory", "warning", "cannot be told without psutil", REINSTALL)
    total, available = found.total, found.free
    what = f"{_size(available)} free of {_size(total)}"
    if total < CONVERSION_BYTES:
        status: Status = "missing"
    else:
        status = "ok" if available >= CONVERSION_BYTES else "warning"
    if status == "ok":
        return Check("memory", status, what)
    what += f"; converting SmolLM2 takes {_size(CONVERSION_BYTES)}"
    return Check("memory", status, what, "close other programs, or try 'edge-parity run MODEL --miniature'")


def _cores() -> Check:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    if cores > 1:
        return Check("cpu", "ok", f"{cores} cores")
    return Check("cpu", "warning", "1 core: a first run takes several minutes", "give the machine a second core")


def _cache() -> list[Check]:
    from harness.store.cache import ENVIRONMENT_VARIABLE, Cache

    try:
        cache = Cache.standard()
    except ImportError as error:
        return [Check("cache", "warning", f"cannot be told without {error.name}", REINSTALL)]
    except UsageError as error:
        what, _, remedy = str(error).partition("; ")
        return [Check("cache", "missing", what, remedy)]
    try:
        kinds = cache.size_report()
    except OSError as error:
        remedy = f"set {ENVIRONMENT_VARIABLE} to a folder that can be read"
        return [Check("cache", "missing", f"{cache.root} cannot be read: {error.strerror}", remedy)]
    parts = [f"{kind} {entries} ({_size(size)})" for kind, entries, size in kinds]
    used = Check("cache", "ok", f"{cache.root}: {', '.join(parts) or 'empty'}")
    remedy = f"{ENVIRONMENT_VARIABLE} names another folder"
    return [used, _disk("disk for the cache", cache.root, CACHE_BYTES, remedy)]


def _disk(name: str, folder: Path, wanted: int, otherwise: str) -> Check:
    """Room and permission to write under `folder`, which need not be there yet."""
    absolute = folder.expanduser().absolute()
    there = next(parent for parent in (absolute, *absolute.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check(name, "missing", f"{there} cannot be written", f"change its permissions; {otherwise}")
    free = shutil.disk_usage(there).free
    what = f"{_size(free)} free at {there}"
    if free >= wanted:
        return Check(name, "ok", what)
    what += f"; a run of SmolLM2 needs {_size(wanted)}"
    return Check(name, "missing", what, f"free some space; {otherwise}")


def _size(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / 1_000_000:.0f} MB"
