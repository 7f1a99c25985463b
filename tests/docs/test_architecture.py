"""The structure that docs/architecture.md promises, read off the imports.

Imports count wherever they stand, within functions too; those for type checkers alone do not.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT
from sources import HARNESS, PACKAGE, parsed, text

from harness.pipeline import flatbuffers

MOST_LOOSE = 5
# The folder of a route comes after whatever it plugs into: the engine reaches it by name, through the registries.
ROOMS = (
    *(
        "names",
        "system",
        "processes",
        "store",
        "flatbuffer",
        "bundle",
        "record",
        "judge",
        "inputs",
        "spec",
        "align",
        "weights",
    ),
    *(
        "compare",
        "locate",
        "jobs",
        "stages/torch",
        "audit",
        "stages/huggingface",
        "stages/litert",
        "stages/litert_lm",
        "operators",
    ),
    *(
        "explain",
        "price",
        "speed",
        "laws",
        "render",
        "pipeline",
        "fuzz",
        "bench",
        "explore",
        "recipe",
        "inspection",
        "bundling",
        "pairs",
        "testing",
        "stages/litert_torch",
        "stages/keras",
        "commands",
        "interface",
    ),
)
# A page reads the record, and what says how things are called and how a number counts. It computes nothing.
PAGES_READ = {"errors", "judge", "locate", "names", "plain", "record", "render", "store", "system"}
# What a command shows that makes no record, and the form of a row's range.
SHOWN = {
    "harness.audit.differences",
    "harness.audit.report",
    "harness.commands.batch",
    "harness.compare.value_range",
    "harness.fuzz.command",
}
FRAMEWORKS = {
    "ai_edge_litert",
    "keras",
    "keras_hub",
    "litert_lm",
    "litert_torch",
    "tensorflow",
    "torch",
    "transformers",
}
# Where else than in the folders of stages a framework may be imported.
MAY_IMPORT = {
    "audit": {"torch", "transformers"},
    "bench": {"ai_edge_litert", "torch"},
    "commands": FRAMEWORKS,
    "explain": {"ai_edge_litert", "torch"},
    "explore": {"torch"},
    "flatbuffer": {"ai_edge_litert", "tensorflow"},
    "pipeline": {"ai_edge_litert"},
    "spec": {"transformers"},
    "testing": {"torch"},
    "weights": {"torch", "transformers"},
}
# A package that one folder of stages alone may import, or name, and the command that says what is installed.
ROUTES = {
    "litert_torch": "harness.stages.litert_torch",
    "keras_hub": "harness.stages.keras",
}
# Who else may name a route's folder, and why.
NAMES_A_ROUTE = {
    "harness": "GenerativeModel is imported from here by every declaration, and type checkers should see it",
    "harness.names.routes": "the registry of routes",
    "harness.names.stages": "the registry of stages",
}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(file): file for file in PACKAGE}


@functools.cache
def imported(file: Path) -> tuple[str, ...]:
    """Modules that a file imports: `a.b` for `from a import b` where that is a module."""
    return tuple(_imported(parsed(file)))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in runs(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{name.name}" for name in node.names]
            modules = [name for name in inner if name in FILES]
            yield from modules or [node.module]


def runs(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, but for what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from runs(child)


GRAPH = {module: sorted({name for name in imported(file) if name in FILES}) for module, file in FILES.items()}


def circles() -> list[list[str]]:
    """Modules that import each other in a loop (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in GRAPH[module]:
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            ring = [stack.pop()]
            while ring[-1] != module:
                ring.append(stack.pop())
            found.append(sorted(ring))

    for module in GRAPH:
        if module not in order:
            visit(module)
    return [ring for ring in found if len(ring) > 1]


def room(module: str) -> str:
    """The folder that a module stands in; each stage's is a room of its own."""
    parts = module.split(".")[1:]
    return "/".join(parts[: 2 if parts[:1] == ["stages"] else 1])


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles() == []


def arrows_back_up() -> set[tuple[str, str]]:
    """Rooms of which one imports another that stands below it in `ROOMS`."""
    place = {name: number for number, name in enumerate(ROOMS)}
    pairs = {(room(module), room(other)) for module in GRAPH for other in GRAPH[module]}
    return {pair for pair in pairs if set(pair) <= set(place) and place[pair[0]] < place[pair[1]]}


def test_rooms_import_from_those_above_them() -> None:
    assert arrows_back_up() == set()


def test_the_rooms_stand_in_this_order_in_the_documents() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("| room |")[1].split("\n\n")[0]
    assert [name for name in re.findall(r"`([\w/]+)/`", table) if name in ROOMS] == list(ROOMS)


def test_few_files_stand_outside_the_rooms() -> None:
    assert len(list(HARNESS.glob("*.py"))) <= MOST_LOOSE


def test_a_page_reads_the_record_and_computes_nothing() -> None:
    pages = [module for module in FILES if room(module) == "render"]
    assert len(pages) > 10
    reads = {(module, room(other)) for module in pages for other in set(GRAPH[module]) - SHOWN}
    assert [pair for pair in sorted(reads) if pair[1] not in PAGES_READ] == []


def test_a_framework_is_imported_where_a_stage_runs_it() -> None:
    outside = [module for module in FILES if not room(module).startswith("stages/")]
    found = {(module, name.split(".")[0]) for module in outside for name in imported(FILES[module])}
    known = [(module, name) for module, name in sorted(found) if name in FRAMEWORKS]
    assert known
    assert [pair for pair in known if pair[1] not in MAY_IMPORT.get(room(pair[0]), set())] == []


@pytest.mark.parametrize(("package", "folder"), ROUTES.items())
def test_the_engine_does_not_know_a_route_by_name(package: str, folder: str) -> None:
    """Neither in an import nor in a word: the word for people is litert-torch."""
    naming = {module for module, file in FILES.items() if package in text(file).lower()}
    outside = {module for module in naming if not f"{module}.".startswith(f"{folder}.")}
    allowed = set(NAMES_A_ROUTE) if folder == "harness.stages.litert_torch" else set()
    assert outside - {"harness.commands.doctor"} == allowed


def kept_by_code() -> dict[str, tuple[str, ...]]:
    """What the cache keeps of flatbuffers by the code that made it: the name of each list, and its modules."""
    return {name: modules for name, modules in vars(flatbuffers).items() if name.endswith("_CODE")}


# What reads a file or computes of it; a change of words and of records is seen elsewhere.
COMPUTES = {"align", "audit", "flatbuffer", "weights"}


@pytest.mark.parametrize(("name", "modules"), kept_by_code().items(), ids=list(kept_by_code()))
def test_what_is_kept_goes_with_all_code_that_made_it(name: str, modules: tuple[str, ...]) -> None:
    """Else the cache would give what an older version found."""
    assert set(modules) <= set(FILES), f"{name} names files that are not there"
    needed = {other for module in modules for other in GRAPH[module] if room(other) in COMPUTES}
    assert needed - set(modules) == set()


def test_the_test_sees_imports_within_functions_and_none_for_type_checkers(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
        "def run():\n    from harness.names import stages\n    import numpy.linalg\n"
    )
    assert imported(file) == ("typing", "harness.names.stages", "numpy.linalg")
