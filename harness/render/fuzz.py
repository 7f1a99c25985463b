"""What a search for a failing input came to, in the terminal. In: its outcome. Out: a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.names.laws import LAW_WORDS, LawName
from harness.plain import one_line
from harness.render.console import STYLES, line, wrapped

if TYPE_CHECKING:
    from rich.console import Console

    from harness.fuzz.command import FuzzOutcome


def _law(name: str) -> str:
    return LAW_WORDS[LawName(name)]


_SHOWN = 64  # token ids


def print_outcome(outcome: FuzzOutcome, console: Console) -> None:
    """What was found, how to see it again, and how many inputs that took; or what came nearest to a limit."""
    model = one_line(outcome.model)
    if outcome.crash is not None:
        said = one_line(outcome.crash.detail.split(";")[0])
        over = "over an input" if outcome.smallest else "before it had its first input"
        line(console, f"CRASHED  {model}  {outcome.crash.name} {outcome.crash.status} {over}: {said}", style="bold red")
    elif outcome.fault is None:
        what = "law" if outcome.laws else "tolerance"
        line(console, f"NONE  {model}  no input of {outcome.tried} breaks a {what}", style=STYLES["pass"])
        wrapped(console, f"nearest: {one_line(outcome.nearest.what)}")
    elif outcome.laws:
        fault = outcome.fault
        line(console, f"FOUND  {model}  {fault.hop} breaks the law {fault.tap}", style="bold red")
        wrapped(console, f"law: {_law(fault.tap)}")
        wrapped(console, f"why: {one_line(fault.why)}")
    else:
        fault = outcome.fault
        line(console, f"FOUND  {model}  {fault.tap} of {fault.hop} breaks a tolerance", style="bold red")
        at = f", worst at position {fault.position}" if fault.position >= 0 else ""
        wrapped(console, f"why: {one_line(fault.why)} (rule {one_line(fault.rule)}){at}")
    if outcome.smallest is not None:
        tokens = outcome.smallest.tokens
        more = f" ... {len(tokens) - _SHOWN} more" if len(tokens) > _SHOWN else ""
        wrapped(console, f"input: {_counted(len(tokens))}: {' '.join(map(str, tokens[:_SHOWN]))}{more}")
        wrapped(console, f"steps: {outcome.schedule}")
    if outcome.first is not None:
        wrapped(
            console,
            f"search: number {outcome.tried} was the first, with {_counted(len(outcome.first.tokens))}; "
            f"{outcome.shrinking} more made it smaller; {outcome.seconds:.0f} s",
        )
    if outcome.file is not None:
        line(console, f"file: {outcome.file}")
        line(console, f"run: {outcome.command}")


def _counted(tokens: int) -> str:
    return f"{tokens} token{'' if tokens == 1 else 's'}"
