"""Text from outside (names, keys, paths, prompts) as it may be shown: it cannot act on what shows it.

In: any text. Out: text without control characters; one line of it; one line as a terminal and a log take it. Light, so
that an error's one line needs no other import.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# C0 and C1 controls (ANSI escapes among them), marks that turn the direction of writing, the separators that some
# programs take for the end of a line, surrogates, the two non-characters of the plane, and letters that nobody sees.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)
_BREAKS = re.compile(r"[\t\n]")
# What GitHub Actions takes for a command in whatever a step prints: `::` where a line begins, `##[` anywhere.
_COMMAND_AT_START = re.compile(r"^(\s*):(?=:)")
_OLD_COMMAND = "##["


def clean(text: object) -> str:
    """Text without control characters, so that a prompt or a path cannot act on what shows it. Lines stay lines."""
    said = str(text)
    return said if said.isprintable() else _UNPRINTABLE.sub("\ufffd", said)


def one_line(text: object, limit: int = 0) -> str:
    """Cleaned text on one line, cut to `limit` characters when `limit` is positive."""
    line = " ".join(clean(text).split())
    return line[: limit - 3] + "..." if limit and len(line) > limit else line


def tail(name: str, limit: int = 90) -> str:
    """The end of a flatbuffer's tensor name, a path of classes of several hundred characters."""
    if len(name) <= limit:
        return name
    kept = name[-limit:]
    return f".../{kept.split('/', 1)[-1]}"


def shown(text: object) -> str:
    """One line as a terminal or a log of GitHub Actions may have it; its spaces stay."""
    return _COMMAND_AT_START.sub(r"\1: ", without_commands(_BREAKS.sub(" ", clean(text))))


def shown_cell(text: object) -> str:
    """Text of a table, whose lines may begin anywhere once the table is folded."""
    return without_commands(clean(text)).replace("::", ": :")


def without_commands(text: str) -> str:
    """Without what GitHub Actions takes for a command wherever it stands in a line."""
    return text.replace(_OLD_COMMAND, "# #[")


def json_for_a_log(text: str) -> str:
    """The same JSON, without what GitHub Actions takes for a command: in JSON those letters stand in strings only."""
    return text.replace(_OLD_COMMAND, r"\u0023#[")


def brief(value: object, limit: int = 60, write: Callable[[object], str] = repr) -> str:
    """A value from outside as Python or JSON writes it, cut: a number may have a million digits."""
    try:
        text = write(value)
    except ValueError:  # more digits than Python writes
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply"
    return one_line(text, limit)
