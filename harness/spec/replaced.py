"""What a spec has changed in a route's package while it was loaded: functions, constants, lowerings, flags.

In: the namespaces before and after. Out: JSON-able content of what differs, for the key of a conversion.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.spec.fingerprints import fingerprint
from harness.spec.route import every_route

_JAX_OPTIONS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion")

Namespaces = Mapping[tuple[str, str], Any]


def namespaces(spec: Path) -> Namespaces:
    """All that the modules, classes and tables of the routes' packages hold now. spec: what it imports of them is
    imported first, so that its import is not a change.
    """
    for route in every_route():
        wanted = _imports_of_package(spec, route.packages.own)
        if wanted:
            route.import_layers()
        for name in wanted:
            try:
                importlib.import_module(name)
            except Exception:  # the spec itself will say so, or catches it
                continue
    return _now()


def _own_packages() -> frozenset[str]:
    return frozenset(route.packages.own for route in every_route())


def _now() -> Namespaces:
    found: dict[tuple[str, str], Any] = {}
    watched = _own_packages()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in watched:
            continue
        for attribute, value in list(vars(module).items()):
            found[name, attribute] = value
            if isinstance(value, type) and value.__module__ == name:
                found |= {(f"{name}.{attribute}", inner): held for inner, held in vars(value).items()}
    tables = [table for route in every_route() for table in route.packages.tables]
    for module_name, *attributes in tables:
        table: Any = sys.modules.get(module_name)
        for attribute in attributes:
            table = getattr(table, attribute, None)
        for key, value in table.items() if isinstance(table, dict) else ():
            found[f"{module_name}.{'.'.join(attributes)}", str(key)] = value
    return found


def changes(before: Namespaces) -> list[Any]:
    """What is there now and was not, is another object, or is gone. Empty for a spec that changes nothing."""
    now = _now()
    modules_before = {holder for holder, _ in before}
    changed = [
        [holder, name, fingerprint(value)]
        for (holder, name), value in now.items()
        if holder in modules_before
        and not _is_same(before.get((holder, name), _NOTHING), value)
        and not (isinstance(value, ModuleType) and value.__name__ == f"{holder}.{name}")  # a package's own module
    ]
    gone = [[holder, name, "gone"] for holder, name in before if (holder, name) not in now]
    return sorted((entry for entry in [*changed, *gone] if not _is_bookkeeping(entry[1])), key=repr)


_NOTHING = object()


def _is_same(before: Any, now: Any) -> bool:
    if before is now:
        return True
    plain = (int, float, str, bytes, bool, tuple)
    return type(before) is type(now) and isinstance(now, plain) and repr(before) == repr(now)


def _is_bookkeeping(name: str) -> bool:
    """Names that imports and type machinery write by themselves."""
    return name in ("__warningregistry__", "__annotations__", "__dict__", "__weakref__") or name.startswith("_abc_")


def _imports_of_package(spec: Path, package: str) -> list[str]:
    try:
        tree = ast.parse(spec.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == package]


def replaced_code() -> dict[str, list[str]]:
    """Functions in the modules of a route's package that come from a file of neither that package nor Python.

    Empty where there are none, so that the key of a model that replaces nothing is what it was. It sees what was put
    there before anybody looked.
    """
    watched = _own_packages()
    paths = [path for name in watched for path in getattr(sys.modules.get(name), "__path__", [])]
    installed = (*(str(Path(path).parent) for path in paths), sysconfig.get_path("stdlib"))
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in watched:
            continue
        classes = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == name]
        for holder in (module, *classes):
            for attribute, value in vars(holder).items():
                inner = getattr(value, "func", value)
                file = getattr(getattr(inner, "__code__", None), "co_filename", "<")
                if not file.startswith(("<", *installed)):
                    found[f"{getattr(holder, '__qualname__', name)}.{attribute}"] = fingerprint(value)
    return {"replaced": [str(sorted(found.items()))]} if found else {}


def flags() -> dict[str, str]:
    """Settings that conversions read: environment variables, and what in torch and jax is not at its standard."""
    read = tuple(name for route in every_route() for name in route.packages.variables)
    talk = tuple(name for route in every_route() for name in route.packages.talk)
    found = {name: value for name, value in os.environ.items() if name.startswith(read) and not name.startswith(talk)}
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.get_default_dtype() != torch.float32:
        found["default dtype"] = str(torch.get_default_dtype())
    jax: Any = sys.modules.get("jax")
    for option in _JAX_OPTIONS:
        if jax is not None and hasattr(jax, "config"):
            value = str(getattr(jax.config, option, ""))
            if value not in ("False", "None", "standard", ""):
                found[option] = value
    return found
