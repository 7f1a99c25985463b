"""Files that a person names, or that lie in a folder that a person names: how they are read.

In: a path, and what to do where it is not the file that is wanted. Out: its content, or a UsageError of one line.

Only regular files of a sane size are opened. A pipe would block for as long as nobody writes into it and can be read
once only; a device never ends; a file of gigabytes that should hold settings is another file.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from harness.errors import UsageError

MB = 1_000_000
SETTINGS = 16 * MB  # what people write: declarations, tolerances, a config.json
TEXT = 256 * MB  # what programs write: records, lists of inputs

_MARK = "\ufeff"  # the byte order mark, as text

_KINDS = (
    (stat.S_ISDIR, os.strerror(errno.EISDIR)),
    (stat.S_ISFIFO, "it is a pipe, which can be read only once"),
    (stat.S_ISSOCK, "it is a socket and not a file"),
    (stat.S_ISCHR, "it is a device and not a file"),
    (stat.S_ISBLK, "it is a device and not a file"),
)


def unreadable(path: Path, most: int | None = None) -> str:
    """Why a path is not a regular file of at most `most` bytes, in words; empty where it is one. Opens nothing."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        return _why(path, error)
    for is_kind, words in _KINDS:
        if is_kind(facts.st_mode):
            return words
    if most is not None and facts.st_size > most:
        return f"it has {facts.st_size:,} bytes, and such a file has {most:,} at most"
    return ""


def check_file(path: Path, remedy: str, most: int | None = None) -> None:
    """Raises UsageError for what is not a regular file of at most `most` bytes."""
    why = unreadable(path, most)
    if why:
        raise UsageError(f"{path} cannot be read ({why}); {_remedy(path, remedy)}")


def _remedy(path: Path, remedy: str) -> str:
    """What to do about a path. Where a pipe stands, the file itself is not at fault."""
    piped = os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)
    return "write what comes out of it to a file first" if piped else remedy


def read_bytes(path: Path, remedy: str, most: int = TEXT) -> bytes:
    """The content of a regular file. Raises UsageError for anything else, and for more than `most` bytes."""
    check_file(path, remedy, most)
    try:
        # What was a file may be a pipe by now, and files of the system grow while they are read.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({_why(path, error)}); {remedy}") from None
    if len(content) > most:
        raise UsageError(f"{path} cannot be read (it has more than {most:,} bytes); {remedy}")
    return content


def read_text(path: Path, remedy: str, most: int = SETTINGS, encoding: str = "utf-8-sig") -> str:
    """The text of a regular file, without the byte order mark that some editors put first. Raises UsageError."""
    try:
        return read_bytes(path, remedy, most).decode(encoding)
    except UnicodeDecodeError:
        raise UsageError(f"{path} cannot be read (it is not UTF-8 text); {remedy}") from None


def read_json(path: Path, remedy: str, most: int = SETTINGS) -> Any:
    """The content of a JSON file. Raises UsageError, also for numbers and nesting that Python does not read, and for a
    byte order mark: transformers and safetensors read most of these files too, and refuse it.
    """
    text = read_text(path, remedy, most, "utf-8")
    if text.startswith(_MARK):
        raise UsageError(
            f"{path} begins with a byte order mark, which transformers refuses; save it as UTF-8 without one"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON ({_first(error)}); {remedy}") from None


class DoubledKeyError(ValueError):
    """An object of JSON that has a key twice. key: which."""

    def __init__(self, key: str) -> None:
        super().__init__(f"'{key}' stands in it twice")
        self.key = key


def without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON, as `object_pairs_hook` of json.loads; of doubled keys json itself keeps the last in silence.

    Raises DoubledKeyError.
    """
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise DoubledKeyError(key)
        found[key] = value
    return found


def read_toml(path: Path, what: str, remedy: str) -> dict[str, object]:
    """The tables of a TOML file. what: it is called in front of its path. Raises UsageError as `read_json` does."""
    try:
        text = read_text(path, remedy)
    except UsageError as error:
        raise UsageError(f"{what} {error}") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} {path} is not TOML ({_first(error)}); {remedy}") from None


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return f"it is a link to {os.readlink(path)}, which is not there"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
