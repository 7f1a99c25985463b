"""What a file is that a person names, told by its first bytes and held against what it is called.

In: a path of a .tflite file or a bundle. Out: nothing, a word on its ending, or a UsageError. Needs no package, so that
a file that is none of these is refused at once.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError
from harness.system.reading import check_file

_IDENTIFIER = b"TFL3"  # at byte 4 of a flatbuffer
_BUNDLES = {b"LITERTLM": ".litertlm", b"PK\x03\x04": ".task"}
_KINDS = "give a .tflite, .litertlm or .task file"


def ending_word(path: Path) -> str:
    """What is to be said of a flatbuffer that is called as a bundle; empty where the name fits.

    Raises UsageError for what is neither a flatbuffer nor a bundle.
    """
    check_file(path, "give the path of a file")
    with path.open("rb") as file:
        start = file.read(8)
    ending = path.suffix.lower()
    called = f", though it is called {ending}" if ending in _BUNDLES.values() else ""
    if not start:
        raise UsageError(f"{path} is empty{called}; {_KINDS}")
    if any(start.startswith(mark) for mark in _BUNDLES):
        return ""
    if start[4:8] == _IDENTIFIER:
        return f"it is a flatbuffer and not a bundle{called}; call it .tflite" if called else ""
    if called:
        raise UsageError(
            f"{path} is not a bundle{called}: it begins neither with LITERTLM nor as a zip does, and is not a "
            "flatbuffer; copy it again from where it is whole"
        )
    raise UsageError(f"{path} is no TFLite flatbuffer (no TFL3 identifier); {_KINDS}")
