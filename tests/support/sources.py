"""The code of the project as syntax trees, for tests that read it. Each file is parsed once a process."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from paths import ROOT

HARNESS = ROOT / "harness"
PACKAGE = sorted(file for file in HARNESS.rglob("*.py") if "vendor" not in file.parts)


@functools.cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(text(path))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file."""
    return tuple(ast.walk(parsed(path)))
