"""The models that can be run, in the terminal. In: entries of the catalogue. Out: a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.render.console import cells

if TYPE_CHECKING:
    from rich.console import Console

    from harness.spec.catalogue import Entry


def print_entries(found: list[Entry], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "published as", "size", "weights", "here"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for entry in found:
        here = "yes" if entry.here else f"no: {entry.remedy}"
        table.add_row(*cells(entry.name, entry.hf_id, _size(entry.parameters), entry.weights, here))
    console.print(table)
    console.print("A seeded miniature is small and random; --checkpoint brings the real weights.", soft_wrap=True)


def _size(parameters: int | None) -> str:
    if parameters is None:
        return "?"
    return f"{parameters / 1e9:.2f} B" if parameters >= 999.5e6 else f"{parameters / 1e6:.0f} M"
