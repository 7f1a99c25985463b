"""Settings of all tests."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import settings
from pure import (
    FOLDERS_OF_A_TEST,
    MARKERS,
    STARTING,
    WRITING,
    without_files,
    without_frameworks,
    without_processes,
)

# A deadline is a timed assertion: a busy machine would fail it.
settings.register_profile("edge-parity", deadline=None)
# `make check` asks for this one: the same properties on fewer examples. `make test` tries them all.
settings.register_profile("quick", deadline=None, max_examples=15)
settings.load_profile("edge-parity")

_MARKS_OF_A_FILE = re.compile(r"^pytestmark = .*", re.MULTILINE)


def marks_of_a_file(path: Path) -> set[str]:
    """The markers of all its tests, read as text."""
    found = _MARKS_OF_A_FILE.search(path.read_text(encoding="utf-8"))
    return set(re.findall(r"\bmark\.(\w+)", found[0])) if found else set()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file whose tests are all left out by `-m "not ..."` is not imported: the frameworks take seconds."""
    left_out = set(re.findall(r"\bnot (\w+)", config.option.markexpr))
    if not left_out or collection_path.suffix != ".py":
        return None
    return True if left_out & marks_of_a_file(collection_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """What a file of tests imports while it is collected counts for all its tests."""
    pure = isinstance(collector, pytest.Module) and not MARKERS & marks_of_a_file(collector.path)
    with without_frameworks() if pure else nullcontext():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for a folder writes files, and those of tests/docs read the whole repository."""
    documents = Path(__file__).parent / "docs"
    for item in items:
        if FOLDERS_OF_A_TEST & set(getattr(item, "fixturenames", ())) or documents in item.path.parents:
            item.add_marker("files")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test and its fixtures import a framework, start a process or write a file only where a marker says so, or
    `-m "not miniature and not process and not files"` would lie. This hook hears of the gate's tests as
    well: they run commands."""
    if Path(__file__).parent not in item.path.parents:
        return (yield)
    marks = {mark.name for mark in item.iter_markers()}
    with (
        nullcontext() if marks & MARKERS else without_frameworks(),
        nullcontext() if marks & STARTING else without_processes(),
        nullcontext() if marks & WRITING else without_files(),
    ):
        return (yield)


@pytest.fixture(autouse=True)
def temporary_files_go_where_they_went() -> Iterator[None]:
    """A command that runs in this process moves its temporary files into a folder that goes with the command."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    yield
    tempfile.tempdir = before
    if variable is None:
        os.environ.pop("TMPDIR", None)
    else:
        os.environ["TMPDIR"] = variable
