"""What keeps a test without a marker from a framework in its process, from another process, and from the disk."""

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
# Tests with one of these may write files. A test that asks for a folder has `files` without typing it.
WRITING = {"files", *STARTING}
FOLDERS_OF_A_TEST = {"tmp_path", "tmp_path_factory"}
# They keep something for their next time, as Python keeps compiled modules.
_KEEPERS = {"hypothesis", "numba"}
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


class _Writes:
    """Whether this process may write files. Python keeps an audit hook for good, so that one is added once and asks."""

    refused = False
    hooked = False

    @classmethod
    def refuse(cls, event: str, arguments: tuple[object, ...]) -> None:
        if cls.refused and event == "open" and _for_writing(*arguments):
            cls.refused = False  # what pytest writes about the failure is not the test's
            pytest.fail(f"a test without a marker writes {arguments[0]}: let it ask for `tmp_path`, or mark it `files`")


def _for_writing(path: object, _: object, flags: object) -> bool:
    """Python's event has the path, the mode of `open` and the flags of `os.open`; a number is a file open already."""
    if not isinstance(path, str) or not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return False
    compiled = "__pycache__" in path or ".pyc" in path  # the second where PYTHONPYCACHEPREFIX is set
    return path != os.devnull and not compiled and _writer() not in _KEEPERS


def _writer() -> str:
    """The package that asks for the file: the nearest one that is neither this module nor of the standard library."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        package = frame.f_globals.get("__name__", "").split(".")[0]
        if package not in sys.stdlib_module_names | {__name__}:
            return package
    return ""


@contextmanager
def without_files() -> Iterator[None]:
    """A file that is written fails the test."""
    if not _Writes.hooked:
        sys.addaudithook(_Writes.refuse)
        _Writes.hooked = True
    _Writes.refused = True
    try:
        yield
    finally:
        _Writes.refused = False
