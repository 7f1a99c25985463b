"""JSON-able content of what a declaration holds: configs, classes, functions with what they have closed over.

In: any value. Out: lists, dicts and text that are the same for the same content in whichever process: no address, ever.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import enum
import functools
import hashlib
import inspect
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LIBRARIES = ("builtins", "torch", "abc", "typing")  # a version number stands for these classes


def fingerprint(value: Any, _inside: frozenset[int] = frozenset()) -> Any:
    """Code counts by the file it stands in, and by what it was made with: defaults, closures, bound arguments, `self`.

    So an edited model is converted again, and so is one whose function was made with another number.
    """
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, (str, int, float, complex, bool, bytes, type(None))):
        return repr(value)
    if id(value) in _inside:
        return "itself"
    inside = _inside | {id(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: fingerprint(getattr(value, field.name), inside) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): fingerprint(item, inside) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fingerprint(item, inside) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(fingerprint(item, inside)) for item in value)
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, type):
        bases = [base for base in value.__mro__ if base.__module__.split(".")[0] not in _LIBRARIES]
        return [[*_source(base), *_closures(base, inside)] for base in bases]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _array(value)
    if callable(value):
        return _code(value, inside)
    return _text(value)


def _array(value: Any) -> list[str]:
    """A NumPy array or a tensor, by its numbers; a tensor without memory by its shape alone."""
    facts = [str(tuple(value.shape)), str(value.dtype)]
    if getattr(getattr(value, "device", None), "type", "") == "meta":
        return facts
    array = value if hasattr(value, "tobytes") else value.detach().double().cpu().numpy()
    return [*facts, hashlib.sha256(array.tobytes()).hexdigest()]


def _code(value: Any, inside: frozenset[int]) -> list[Any]:
    if isinstance(value, (functools.partial, functools.partialmethod)):
        return [fingerprint(item, inside) for item in (value.func, value.args, value.keywords)]
    if isinstance(value, types.MethodType):
        return [_code(value.__func__, inside), _state(value.__self__, inside)]
    if isinstance(value, types.FunctionType):
        return [*_source(value), *_made_with(value, inside)]
    if isinstance(value, types.BuiltinFunctionType):
        return _source(value)
    return [fingerprint(type(value), inside), _state(value, inside)]  # an object with __call__


def _state(value: Any, inside: frozenset[int]) -> Any:
    """What an object holds, without its class."""
    if isinstance(value, (type, types.ModuleType)):
        return _text(value)
    kept = getattr(value, "__dict__", {})
    return {name: fingerprint(item, inside) for name, item in sorted(kept.items()) if not name.startswith("__")}


def _made_with(function: types.FunctionType, inside: frozenset[int]) -> list[Any]:
    """Defaults and closed-over values of a function; nothing for one that has none."""
    found: list[Any] = [held for held in (function.__defaults__, function.__kwdefaults__) if held]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            found.append("empty")
    return [fingerprint(item, inside) for item in found]


def _closures(cls: type, inside: frozenset[int]) -> list[Any]:
    """What the methods of a class have closed over: a class that a function made differs in nothing else."""
    found = []
    for name, method in sorted(vars(cls).items()):
        method = getattr(method, "__func__", method)
        if isinstance(method, types.FunctionType) and method.__closure__:
            made_with = _made_with(method, inside | {id(cls)})
            found.append([name, made_with])
    return found


def _source(value: Any) -> list[str]:
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', _text(value))}"
    try:
        file = Path(inspect.getsourcefile(value) or "")
    except TypeError:
        return [name, hashlib.sha256(_text(value).encode()).hexdigest()]
    return [name, source_digest(file)]


def source_digest(file: Path) -> str:
    """SHA-256 of a Python file as it is understood, without comments and layout; of any other file, of its bytes."""
    try:
        content = file.read_bytes()
    except OSError:
        return "no file"
    plain = hashlib.sha256(content).hexdigest()
    if file.suffix != ".py":
        return plain
    if plain not in _UNDERSTOOD:
        with contextlib.suppress(SyntaxError, ValueError, RecursionError):
            _UNDERSTOOD[plain] = hashlib.sha256(ast.dump(ast.parse(content)).encode()).hexdigest()
    return _UNDERSTOOD.get(plain, plain)


_UNDERSTOOD: dict[str, str] = {}  # SHA-256 of a source file's bytes -> of what they mean


def _text(value: Any) -> str:
    return _ADDRESS.sub("", repr(value))
