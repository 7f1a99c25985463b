"""What keeps a test without a marker from importing a framework into its process, and from starting another process."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import multiprocessing.process
import multiprocessing.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import pytest

FRAMEWORKS = {"ai_edge_litert", "keras", "keras_hub", "litert_torch", "tensorflow", "torch", "transformers"}
# Tests with one of these may import what they like.
MARKERS = {"miniature", "slow", "further", "sweep", "extras"}
# Tests with one of these may start processes.
STARTING = {"process", *MARKERS}
# All ways to a process that Python has: whoever finds another one has a test that is slower than it says.
_WAYS: tuple[tuple[object, str], ...] = (
    (subprocess.Popen, "__init__"),
    (multiprocessing.process.BaseProcess, "start"),
    (multiprocessing.util, "spawnv_passfds"),
    (os, "fork"),
    (os, "posix_spawn"),
    (os, "system"),
)


class _Refusing(importlib.abc.Loader):
    """Loads nothing: whoever only asks where a framework is gets its answer, and whoever imports it fails."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        pytest.fail(f"a test without a marker imports {spec.name}: mark it `miniature`, or `slow` where it takes long")

    def exec_module(self, module: ModuleType) -> None:
        raise AssertionError(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in FRAMEWORKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Refusing()
        return spec


@contextmanager
def without_frameworks() -> Iterator[None]:
    """An import of a framework fails the test, where this process has not got it from a test that may."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def without_processes() -> Iterator[None]:
    """A process that is started fails the test."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in _WAYS:
            patch.setattr(owner, name, _refuse)
        yield


def _refuse(*_: object, **__: object) -> None:
    pytest.fail("a test without a marker starts a process: mark it `process`, or `slow` where it takes long")
