"""What sizes a model has, read off its declaration as text: parameters, layers, and how many positions it computes.

In: a declaration found in a spec file. Out: a count, or None where the text does not give it. Nothing is run or
imported, so that `edge-parity list` shows sizes at once, and what no model has room for is refused at once; a run looks
at the models themselves.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from harness.spec.model import SpecRef

_CONFIG, _LONGEST = "config", "max_seq_len"
# Families whose feed forward has two matrices instead of three.
_UNGATED = frozenset({"PhiConfig", "FalconConfig", "GPT2Config"})


def published_parameters(ref: SpecRef) -> int | None:
    """Parameters of the matrices of the declared `published` config, tied ones once. Norms and biases, well under
    one per cent, are left out. None when a size is not a literal in the file.
    """
    family, sizes = _published(ref)
    try:
        return _count(family, sizes)
    except (KeyError, TypeError):
        return None


def published_layers(ref: SpecRef) -> int | None:
    """Layers of the declared `published` config; None where the file does not have them as a literal."""
    layers = _published(ref)[1].get("num_hidden_layers")
    return layers if isinstance(layers, int) else None


def longest_declared(ref: SpecRef) -> int | None:
    """Positions that the declared `config` computes at most, its `max_seq_len`: where the declaration says it itself,
    or names a function whose source says it once. None elsewhere.
    """
    declared = ref.declared.get(_CONFIG)
    if not isinstance(declared, str):
        return None
    made = ast.parse(declared, mode="eval").body
    if isinstance(made, ast.Call) and made.args and isinstance(made.args[0], ast.Lambda):  # wraps(...)(lambda: ...)
        made = made.args[0]
    if isinstance(made, ast.Lambda):
        found = [keyword.value for keyword in getattr(made.body, "keywords", ()) if keyword.arg == _LONGEST]
        return _one_number(found)
    if isinstance(made, ast.Attribute) and isinstance(made.value, ast.Name):
        source = _source(made.value.id, ref.file)
        return None if source is None else _one_number(list(_said(_functions(source), made.attr)))
    return None


def _published(ref: SpecRef) -> tuple[str, dict[str, Any]]:
    """(class name, literal keywords) of the declared `published` config."""
    declared = ref.declared.get("published")
    if not isinstance(declared, str):
        return "", {}
    return _call(ast.parse(declared, mode="eval").body, _assignments(ref.file.read_text(encoding="utf-8")))


def _one_number(said: list[ast.expr]) -> int | None:
    """What is said once, and as a number."""
    value = said[0] if len(said) == 1 else None
    return value.value if isinstance(value, ast.Constant) and type(value.value) is int else None


def _source(name: str, file: Path) -> Path | None:
    """Where the module is that a spec file imports by a name, `from package.folder import name`; it is not imported."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                top, *folders = f"{node.module}.{alias.name}".split(".")
                with suppress(ImportError, ValueError):
                    spec = importlib.util.find_spec(top)
                    places = (spec.submodule_search_locations or ()) if spec is not None else ()
                    files = (Path(place).joinpath(*folders).with_suffix(".py") for place in places)
                    return next((path for path in files if path.is_file()), None)
    return None


@cache
def _functions(source: Path) -> Mapping[str, ast.FunctionDef]:
    with suppress(OSError, SyntaxError, ValueError):
        return {node.name: node for node in ast.parse(source.read_bytes()).body if isinstance(node, ast.FunctionDef)}
    return {}


def _said(
    functions: Mapping[str, ast.FunctionDef], name: str, seen: frozenset[str] = frozenset()
) -> Iterator[ast.expr]:
    """Whatever a function, and those of its file that it calls, say of the number of positions."""
    if name not in functions or name in seen:
        return
    for node in ast.walk(functions[name]):
        if isinstance(node, ast.keyword) and node.arg == _LONGEST:
            yield node.value
        elif isinstance(node, ast.Attribute) and node.attr == _LONGEST:
            yield node  # whatever becomes of it there
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from _said(functions, node.func.id, seen | {name})


@cache
def _assignments(text: str) -> Mapping[str, ast.expr]:
    """Name -> what it is set to, at the top of a file. A file of several models is parsed once."""
    return {
        target.id: node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _call(node: ast.expr, names: Mapping[str, ast.expr]) -> tuple[str, dict[str, Any]]:
    """(class name, literal keywords) of `Class(...)`, a lambda around it, a partial of it, or a name for one."""
    if isinstance(node, ast.Lambda):
        return _call(node.body, names)
    if isinstance(node, ast.Name):
        return _call(names[node.id], names) if node.id in names else (node.id, {})
    if not isinstance(node, ast.Call):
        return "", {}
    is_partial = isinstance(node.func, ast.Name) and node.func.id == "partial" and bool(node.args)
    family, sizes = _call(node.args[0] if is_partial else node.func, names)
    for keyword in node.keywords:
        try:
            sizes[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return family, sizes


def _count(family: str, sizes: Mapping[str, Any]) -> int:
    hidden, layers, heads = (sizes[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    kv_heads = sizes.get("num_key_value_heads") or heads
    head_dim = sizes.get("head_dim") or hidden // heads
    intermediate = sizes.get("intermediate_size") or 4 * hidden
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    feed_forward = (2 if family in _UNGATED else 3) * hidden * intermediate
    embeddings = sizes["vocab_size"] * hidden * (1 if sizes["tie_word_embeddings"] else 2)
    return int(embeddings + layers * (attention + feed_forward))
