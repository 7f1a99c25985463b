"""Tests stand on their own: each in a folder of promises, none on another, none on private names of the package."""

from __future__ import annotations

import ast
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from pure import without_files, without_processes
from sources import parsed

TESTS = ROOT / "tests"
FOLDERS = {"unit", "stages", "faults", "commands", "docs", "browser"}
FILES = sorted(path for folder in (*FOLDERS, "support") for path in (TESTS / folder).glob("*.py"))
ALLOWED = {
    # Of other packages.
    "test_upstream.py: config._attn_implementation",
    "test_spec_key.py: decomp._pre_lower_decomp",
    # Ours: what a test spoils or measures, and nobody else asks for.
    "test_surroundings.py: temporary._own",  # a process has one temporary folder, and this one has its own already
    "test_integrity.py: file._map",  # where in the file its constants lie
}


def imports(tree: ast.Module) -> dict[str, str]:
    """Every name that a module imports, with the module that it is of; wherever the import stands."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node.module or "" for alias in node.names}
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(tree: ast.Module) -> set[str]:
    """`owner._name` for what is private to another module: imported, read, called, or set through its name.

    Not what `self` has, and not what an import of another package has.
    """
    known = imports(tree)
    owners = {name: module.split(".")[-1] for name, module in known.items() if module.startswith("harness")}
    found = {f"{owner}.{name}" for name, owner in owners.items() if is_private(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and isinstance(node.value, ast.Name):
            owner = node.value.id
            if owner not in ("self", "cls") and known.get(owner, "harness").startswith("harness"):
                found.add(f"{owner}.{node.attr}")
        elif isinstance(node, ast.Call) and len(node.args) > 1 and isinstance(node.args[0], ast.Name):
            owner, given = node.args[0].id, node.args[1]
            if owner in owners and isinstance(given, ast.Constant) and is_private(str(given.value)):
                found.add(f"{owner}.{given.value}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("harness."):
            owner, name = node.value.split(".")[-2:]
            found |= {f"{owner}.{name}"} if is_private(name) else set()
    return found


def test_every_test_stands_in_a_folder_that_says_what_it_promises() -> None:
    found = {path.parent for path in TESTS.rglob("test_*.py")}
    assert found == {TESTS / folder for folder in FOLDERS}


def test_no_two_test_modules_have_one_name() -> None:
    """Pytest imports them by it, and leaves the second one out with an error."""
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_no_test_module_is_imported() -> None:
    found = {path.name: imports(parsed(path)).values() for path in FILES}
    assert [
        (name, module)
        for name, modules in found.items()
        for module in modules
        if module.split(".")[-1].startswith("test_")
    ] == []


def test_no_private_name_of_the_package_is_used() -> None:
    found = {f"{path.name}: {name}" for path in FILES for name in private_names(parsed(path))}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        "from harness.names.taps import _x",
        "from harness.names import taps\ntaps._x()",
        "from harness.names import taps\nmonkeypatch.setattr(taps, '_x', 1)",
        "monkeypatch.setattr('harness.names.taps._x', 1)",
        "def test(taps):\n    taps._x()",
    ],
)
def test_a_private_name_is_seen_however_it_is_reached(text: str) -> None:
    assert private_names(ast.parse(text)) == {"taps._x"}


REFUSED = """
import importlib.util, sys
import pytest
from pure import without_frameworks
with without_frameworks():
    assert importlib.util.find_spec("torch"), "asking where it is imports nothing"
    with pytest.raises(pytest.fail.Exception, match="imports torch: mark it"):
        import torch
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run(["true"]),
        lambda: os.system("true"),
        # Looked up late: a server of forks that a slow test has started already starts no process of its own.
        lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
        lambda: multiprocessing.get_context("forkserver").Process(target=print).start(),
    ],
)
def test_a_test_without_a_marker_that_starts_a_process_fails(start: Callable[[], object]) -> None:
    with without_processes(), pytest.raises(pytest.fail.Exception, match="starts a process: mark it"):
        start()


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (folder / "text").write_text("", encoding="utf-8"),
        lambda folder: tempfile.mkstemp(dir=folder),
        lambda folder: os.open(folder / "low", os.O_WRONLY | os.O_CREAT),
        lambda folder: np.save(folder / "array.npy", np.zeros(1)),
    ],
)
def test_a_test_without_a_marker_that_writes_a_file_fails(write: Callable[[Path], object], tmp_path: Path) -> None:
    with without_files(), pytest.raises(pytest.fail.Exception, match=r"writes .*: let it ask for `tmp_path`"):
        write(tmp_path)
    write(tmp_path)


def test_a_test_without_a_marker_may_read_a_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("read", encoding="utf-8")
    with without_files():
        assert (tmp_path / "text").read_text(encoding="utf-8") == "read"


@pytest.mark.process
def test_a_test_without_a_marker_that_imports_a_framework_fails() -> None:
    """In a process that has none yet; `make check` runs the tests in such ones."""
    done = subprocess.run([sys.executable, "-c", REFUSED], cwd=TESTS / "support", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
