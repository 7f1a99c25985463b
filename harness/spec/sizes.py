"""How many parameters a published model has, read off its declaration as text.

In: a declaration found in a spec file. Out: a count, or None where the text does not give it. Nothing is run or
imported, so that `edge-parity list` can show sizes at once; a run counts the tensors instead.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from typing import Any

from harness.spec.model import SpecRef

# Families whose feed forward has two matrices instead of three.
_UNGATED = frozenset({"PhiConfig", "FalconConfig", "GPT2Config"})


def published_parameters(ref: SpecRef) -> int | None:
    """Parameters of the matrices of the declared `published` config, tied ones once. Norms and biases, well under
    one per cent, are left out. None when a size is not a literal in the file.
    """
    declared = ref.declared.get("published")
    if not isinstance(declared, str):
        return None
    family, sizes = _call(ast.parse(declared, mode="eval").body, _assignments(ref.file.read_text(encoding="utf-8")))
    try:
        return _count(family, sizes)
    except (KeyError, TypeError):
        return None


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
