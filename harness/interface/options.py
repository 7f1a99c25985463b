"""The options of a run in Python: those of `edge-parity run`, by the same names with underscores.

In: keyword arguments. Out: `Options`, or a UsageError of one line that says what to give. Imports no framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.plain import one_line

if TYPE_CHECKING:
    from harness.pipeline.options import Options

Kind = tuple[str, Callable[[Any], Any]]  # what to give, in words, and what is made of it; TypeError for anything else


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError
    return int(value.__index__())


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError
    return float(value)


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _path(value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not str(value).strip():
        raise TypeError
    return Path(value)


def _place(value: Any) -> str:
    """A folder or an id of the hub."""
    return value if isinstance(value, str) else str(_path(value))


def _several(value: Any, of: Callable[[Any], Any], split: bool = True) -> tuple[Any, ...]:
    """split: one text may hold several, with commas between."""
    if isinstance(value, str):
        value = value.split(",") if split else [value]
    elif isinstance(value, os.PathLike):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise TypeError
    return tuple(of(each) for each in value)


def _names(value: Any) -> tuple[str, ...]:
    return _several(value, lambda each: _words(each).strip())


def _prompts(value: Any) -> tuple[str, ...]:
    return _several(value, _words, split=False)


def _recipes(value: Any) -> tuple[Any, ...]:
    from harness.flatbuffer.quantise import known_recipe
    from harness.names.recipes import parse_recipes
    from harness.system.reading import read_text

    given = _several(value, _place)
    return parse_recipes(",".join(given), known_recipe, read_text) if given else ()


def _lengths(value: Any) -> tuple[int, ...]:
    from harness.names.variant import parse_prefill

    if isinstance(value, str):
        return parse_prefill(value)
    given = _several(value if isinstance(value, (list, tuple)) else [value], _whole)
    return parse_prefill(",".join(map(str, given)))


_FLAG: Kind = ("True or False", _flag)
_WHOLE: Kind = ("a whole number", _whole)
_PATH: Kind = ("a path", _path)
_VARIANT: Mapping[str, Kind] = {
    "hlfb": _FLAG,
    "kv_layout": ("a name, e.g. 'transposed'", _words),
    "mask_as_input": _FLAG,
    "prefill": ("lengths, e.g. [8, 32]", _lengths),
    "kv_cache_len": _WHOLE,
}
_KINDS: Mapping[str, Kind] = {
    "checkpoint": ("a folder or a hub id", _place),
    "tflite": _PATH,
    "miniature": _FLAG,
    "layers": _WHOLE,
    "stages": ("names, e.g. ['reauthored']", _names),
    "prompt": ("a text, or a list of texts", _prompts),
    "inputs": _PATH,
    "decode": _WHOLE,
    "edges": _FLAG,
    "generate": _WHOLE,
    "chat": _FLAG,
    "text": _PATH,
    "quantize": ("recipes, e.g. ['dynamic_int8']", _recipes),
    "route": ("a name, e.g. 'export-hf'", _words),
    "sensitivity": _FLAG,
    "speed": _FLAG,
    "speed_threads": _WHOLE,
    "laws": _FLAG,
    "seed": _WHOLE,
    "tolerances": _PATH,
    "out": _PATH,
    "keep_traces": _FLAG,
    "no_cache": _FLAG,
    "timeout": ("seconds", _seconds),
    **_VARIANT,
}
_FIELDS = {"prompt": "prompts", "inputs": "inputs_file"}  # what `Options` calls them


def options_of(model: Any, given: Mapping[str, Any]) -> Options:
    """The options of a run. An option that is None is not given. Raises UsageError."""
    from harness.names.variant import VariantOptions
    from harness.pipeline.options import Options

    unknown = sorted(set(given) - set(_KINDS))
    if unknown:
        raise UsageError(f"no option {unknown[0]!r}; a run has {', '.join(sorted(_KINDS))}")
    values = {name: _value(name, _KINDS[name], value) for name, value in given.items() if value is not None}
    place = _value("model", ("the name of a model or of its file", _place), model)
    if (route := values.pop("route", None)) is not None:
        from harness.weights.folder_spec import declared_folder

        miniature = values.get("miniature", False)
        (place,), values["checkpoint"] = declared_folder([place], route, values.get("checkpoint"), miniature=miniature)
    variant = VariantOptions(**{name: values.pop(name) for name in _VARIANT if name in values})
    named = {_FIELDS.get(name, name): value for name, value in values.items()}
    return Options(model=place, variant=variant, **named)


def _value(name: str, kind: Kind, value: Any) -> Any:
    words, convert = kind
    try:
        return convert(value)
    except TypeError:
        raise UsageError(f"{name} is {one_line(repr(value), 60)}; give {words}") from None
