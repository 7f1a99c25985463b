"""What every page of the terminal is built of: lines, prose, tables. In: text. Out: the same on a rich console.

Everything is printed as `Text`, never as markup: names, prompts and reasons come from outside.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.plain import one_line, shown, shown_cell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STYLES = {"pass": "green", "ok": "green", "fail": "bold red", "crashed": "bold red", "timeout": "bold red"}


def line(console: Console, text: str, style: str = "") -> None:
    """One line, whole: a path or a command that is wrapped cannot be copied."""
    from rich.text import Text

    console.print(Text(shown(text), style=style), soft_wrap=True)


def wrapped(console: Console, text: str, indent: int = 2, style: str = "") -> None:
    """Prose, broken at spaces only."""
    for part in textwrap.wrap(one_line(text), max(20, console.width - indent), break_long_words=False):
        line(console, " " * indent + part, style=style)


def new_table(title: str, columns: Sequence[tuple[str, bool]], min_first: int = 0) -> Table:
    """A table; a column is a heading and whether its values are numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(shown(title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for heading, is_number in columns:
        table.add_column(Text(heading), justify="right" if is_number else "left", overflow="fold")
    table.columns[0].min_width = min_first
    return table


def cells(*values: str | tuple[str, str]) -> list[Text]:
    """Cells of a row; a pair is a text and its style."""
    from rich.text import Text

    return [Text(shown_cell(v)) if isinstance(v, str) else Text(shown_cell(v[0]), style=v[1]) for v in values]


def verdict_cell(verdict: str) -> tuple[str, str]:
    """A verdict as a cell: a failure stands out without colours too."""
    return verdict.upper() if verdict == "fail" else verdict, STYLES.get(verdict, "yellow")
