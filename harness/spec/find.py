"""Find a declaration: by a registered name, or in a spec file.

In: what a person calls a model. Out: a `SpecRef`.

`describe` reads a spec file as text, so that `edge-parity list` needs no framework. So does `find_spec`; where that
shows no declaration, or none whose name is written out, it has the file run (`harness/spec/declared.py`).
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.names.stages import REAUTHORED
from harness.spec.declared import run_for_declarations
from harness.spec.model import UNREAD, Model, SpecRef, check_name
from harness.spec.route import Route, class_words, every_route, route_named
from harness.system.extras import why_not
from harness.system.reading import read_text

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "models"
_CLASS = "class"  # beside the fields of a declaration: what is called
_ROUTE = "route"  # of one that has run: the route that it names


def describe(file: Path) -> list[SpecRef]:
    """The models that a spec file declares, without running it: `NAME = GenerativeModel(...)`, and variants of one
    declared above, `OTHER = replace(NAME, ...)`.

    Raises UsageError for a file that cannot be read or parsed.
    """
    text = read_text(file, f"give a Python file, as UTF-8 text, that declares a {class_words()}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its strings; they would be said where only one line may be
            tree = ast.parse(text, filename=str(file))
    except SyntaxError as error:
        raise UsageError(f"{file}:{error.lineno or 1}: syntax error: {error.msg}; fix the spec file") from None
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes, numbers and nesting beyond Python's limits
        raise UsageError(f"{file} cannot be read as a spec file ({error}); give a Python file") from None
    return _read_models(tree, file)


def _read_models(tree: ast.Module, file: Path) -> list[SpecRef]:
    found: dict[str, SpecRef] = {}
    for node in tree.body:
        if not (isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call)):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if not isinstance(target, ast.Name):
            continue
        base = _base(node.value, found)
        if base is not None:
            found[target.id] = SpecRef(file, target.id, {**base, **_literals(node.value)})
    return list(found.values())


def _base(call: ast.Call, found: Mapping[str, SpecRef]) -> Mapping[str, Any] | None:
    """What a declaration starts from: nothing, or the fields of OTHER for `replace(OTHER, ...)`; else None."""
    called = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if called in _classes():
        unread = call.args or any(keyword.arg is None for keyword in call.keywords)
        return {_CLASS: called, **({UNREAD: True} if unread else {})}
    first = call.args[0] if call.args else None
    if called == "replace" and isinstance(first, ast.Name) and first.id in found:
        return found[first.id].declared
    return None


def _classes() -> dict[str, type[Model]]:
    """What a spec file may call to declare a model, by name: the declarations of the routes."""
    return {route.declaration.__name__: route.declaration for route in every_route()}


def own_stage(ref: SpecRef) -> str:
    """The stage that runs a declaration's own version: its route's."""
    route = _route(ref)
    return route.stage if route is not None else REAUTHORED


def extra_of(ref: SpecRef) -> str:
    """The extra of the distribution that brings the packages of a declaration's route; empty for none."""
    route = _route(ref)
    return route.extra if route is not None else ""


def not_installed(ref: SpecRef) -> str:
    """Which packages of a declaration's route are missing, and what brings them; empty where none is."""
    extra = extra_of(ref)
    return why_not(extra) if extra else ""


def _route(ref: SpecRef) -> Route | None:
    called = str(ref.declared.get(_CLASS, ""))
    name = str(ref.declared.get(_ROUTE, "")) or (_classes()[called].route if called else "")
    return route_named(name) if name else None


def _literals(call: ast.Call) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            continue
        try:
            values[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            values[keyword.arg] = ast.unparse(keyword.value)
            if keyword.arg == "name":  # computed: it is known once the file has run
                values[UNREAD] = True
    return values


def registered() -> dict[str, SpecRef]:
    """Every model in `models/`, by name; of those that share one the last, which `find_spec` refuses."""
    return {ref.name: ref for ref in declarations()}


def declarations() -> list[SpecRef]:
    """Every declaration in `models/`, file by file."""
    return [ref for file in sorted(MODELS_FOLDER.glob("[!_]*.py")) for ref in describe(file)]


def places_of(name: str, refs: list[SpecRef]) -> list[str]:
    """Where a name is declared: the files, with the variable where one file declares it twice."""
    found = [ref for ref in refs if ref.name == name]
    files = [ref.file for ref in found]
    return [str(ref.file) if files.count(ref.file) == 1 else f"{ref.file}:{ref.variable}" for ref in found]


def main_models() -> dict[str, SpecRef]:
    """The first model of every file in `models/`, by name: one of each kind."""
    first: dict[Path, SpecRef] = {}
    for ref in declarations():
        first.setdefault(ref.file, ref)
    return {ref.name: ref for ref in first.values()}


def find_spec(model: str) -> SpecRef:
    """The declaration that MODEL means: a registered name, `file.py` or `file.py:NAME`.

    Raises UsageError with the nearest name, or with what is wrong in the file.
    """
    if model.endswith(".py") or ".py:" in model or "/" in model:
        return _find_in_file(model)
    refs = declarations()
    known = {ref.name: ref for ref in refs}
    places = places_of(model, refs)
    if len(places) > 1:
        raise UsageError(f"'{model}' is declared more than once: {' and '.join(places)}; give each a name of its own")
    if model in known:
        return known[model]
    near = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "a spec file is named by its path, ./my_model.py;"
    raise UsageError(f"no model '{model}': {hint} 'edge-parity list' shows all")


def _find_in_file(model: str) -> SpecRef:
    path, _, variable = model.partition(".py:") if ".py:" in model else (model, "", "")
    file = Path(path + ".py" if variable else path)
    if not file.is_file():
        raise UsageError(f"no spec file {file}; give the path of a .py file that declares a {class_words()}")
    refs = _fitting(describe(file), variable)
    if (not refs or any(ref.unread for ref in refs)) and _imports_anything(file):
        refs = _run_for(file, variable)
    if not refs:
        what = f"no {class_words()} called {variable}" if variable else f"no NAME = {class_words('{}(...)')}"
        raise UsageError(f"{file} has {what}; docs/adding-a-model.md shows one")
    if len(refs) > 1:
        names = ", ".join(f"{file}:{ref.variable}" for ref in refs)
        raise UsageError(f"{file} declares several models; name one of {names}")
    if not refs[0].has_run:
        _check_fields(refs[0])
    check_name(refs[0].declared.get("name"), f"{file}: {refs[0].variable}")
    return refs[0]


def _fitting(refs: list[SpecRef], variable: str) -> list[SpecRef]:
    return [ref for ref in refs if variable in (ref.variable, ref.name)] if variable else refs


def _imports_anything(file: Path) -> bool:
    """Whether running the file can show more than reading it did: a declaration's class is imported in some way."""
    tree = ast.parse(read_text(file, "give a Python file"))
    return any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree))


def _run_for(file: Path, variable: str) -> list[SpecRef]:
    """What the file declares, as it turns out when it runs: its own models, else those that it imports."""
    found = run_for_declarations(file)
    own = [entry for entry in found if entry["own"]]
    refs = [
        SpecRef(file, entry["variable"], {"name": entry["name"], _ROUTE: entry["route"]}, has_run=True)
        for entry in (found if variable else own or found)
    ]
    return _fitting(refs, variable)


def _check_fields(ref: SpecRef) -> None:
    called = str(ref.declared[_CLASS])
    required, known = _fields(_classes()[called])
    missing = [name for name in required if name not in ref.declared]
    if missing:
        raise UsageError(
            f"{ref.file}: {ref.variable} lacks {', '.join(missing)}; a {called} needs {', '.join(required)}"
        )
    for name in ref.declared:
        if name not in known and name not in (UNREAD, _CLASS):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the fields are {', '.join(sorted(known))}"
            raise UsageError(f"{ref.file}: {ref.variable} has no field '{name}'; {hint}")


def _fields(declaration: type[Model]) -> tuple[list[str], set[str]]:
    """(the fields that a declaration must give, as it is called; all that it may give)"""
    entries = sorted(fields(declaration), key=lambda entry: bool(entry.kw_only))
    required = [entry.name for entry in entries if entry.default is MISSING and entry.default_factory is MISSING]
    return required, {entry.name for entry in entries}
