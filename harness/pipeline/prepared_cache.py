"""What preparing a run found last time, when nothing that it rests on has changed.

In: a request. Out: its `Prepared`, without the ten seconds that importing the frameworks takes, or None.

The key is what was asked. Beside what was found lies what it rests on (`harness/spec/rests.py`): every file that was
opened or looked for, the code that was loaded, folders, variables. Where that cannot be told, nothing is kept.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.errors import UsageError
from harness.jobs.prepared import Prepared, Request
from harness.spec.numerics import VARIABLES
from harness.spec.replaced import flags
from harness.spec.rests import Rests
from harness.spec.route import recorded_distributions
from harness.store.cache import Cache, key_of

PREPARED = "prepared"
_log = logging.getLogger(__name__)
_FILE = "prepared.json"
_RESTS = "rests.json"
_PACKAGES = ("edge-parity", "torch", "transformers", "tokenizers", "gguf")
# Variables that packages read when they are imported, before anybody listens.
_READ_EARLY = (
    "HF_",
    "HUGGINGFACE_",
    "TRANSFORMERS_",
    "TOKENIZERS_",
    "TORCH_",
    "PYTORCH_",
    "PYTHONPATH",
    "XDG_",
    "HOME",
    *VARIABLES,
)


def recall_key(request: Request) -> str | None:
    """The key of a request; None for one that a network may answer differently each time."""
    if request.checkpoint is not None and not Path(request.checkpoint).expanduser().is_dir():
        return None
    content: dict[str, object] = {
        "request": request.model_dump(),
        "checkpoint": str(Path(request.checkpoint).expanduser().resolve()) if request.checkpoint else None,
        "versions": {name: _version(name) for name in (*_PACKAGES, *recorded_distributions())},
        "python": sys.version,
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_READ_EARLY)},
        "flags": flags(),
    }
    return key_of(content)


def recall(cache: Cache, key: str | None) -> Prepared | None:
    """What was remembered under a key, if all that it rests on is as it was, and its checkpoint whole."""
    folder = cache.entry(PREPARED, key) if key is not None else None
    if folder is None:
        return None
    try:
        rests = json.loads((folder / _RESTS).read_text())
        prepared = Prepared.model_validate_json((folder / _FILE).read_text())
    except (OSError, ValueError):  # another run has just replaced it, or it is of another version
        return None
    if any(Rests.model_validate(each).changed() is not None for each in rests):
        return None
    checkpoint = Path(prepared.checkpoint)
    if checkpoint.is_relative_to(cache.root):
        kind, entry = checkpoint.relative_to(cache.root).parts[:2]
        return prepared if cache.entry(kind, entry) is not None else None
    return prepared if checkpoint.is_dir() else None


def remember(cache: Cache, key: str | None, prepared: Prepared, rests: Sequence[Rests | None]) -> None:
    """Keep what was prepared for the next run that asks for the same, in place of what is not so any more.

    rests: of each process that had a part in it; one that cannot tell keeps it from being remembered.
    """
    known = [each for each in rests if each is not None]
    if key is None or not known or len(known) < len(rests):
        return
    try:
        cache.replace(PREPARED, key, lambda folder: _write(folder, prepared, known))
    except UsageError as error:  # a cache that is full or closed costs the next run ten seconds, and this one nothing
        _log.warning("what was prepared is not kept: %s", error)


def _write(folder: Path, prepared: Prepared, rests: list[Rests]) -> None:
    (folder / _FILE).write_text(prepared.model_dump_json())
    (folder / _RESTS).write_text(json.dumps([each.model_dump() for each in rests]))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
