"""A checkpoint folder as a model: the declaration that its route needs, written for it.

In: a folder in Hugging Face format, and the route that `--route` names. Out: MODEL as other commands take it, a spec
file in the cache. The same folder has the same file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.names.routes import OF_FOLDERS
from harness.plain import brief
from harness.store.cache import Cache, key_of
from harness.weights.configs import raw_config

SPECS = "specs"
_VARIABLE, _FILE, _LONGEST = "MODEL", "spec.py", 64
_TEXT = '''"""The model of a checkpoint folder, as --route {route} declares it."""

from pathlib import Path

from harness import {called}
from harness.weights.configs import hf_config

{variable} = {called}(
    name={name!r},
    hf_id={folder!r},
    published=lambda: hf_config(Path({folder!r})),
)
'''


def declared_folder(
    models: Sequence[str], route: str, checkpoint: str | None, *, miniature: bool
) -> tuple[list[str], str | None]:
    """MODEL, and the checkpoint that it is run with: the folder, or none for a miniature of its config.

    models: what the command was given. Raises UsageError for an unknown route, and for what is not a folder.
    """
    called = OF_FOLDERS.get(route)
    if called is None:
        known = ", ".join(OF_FOLDERS)
        raise UsageError(f"--route {brief(route)}: the routes of a folder are {known}; a declaration names its own")
    if len(models) != 1:
        raise UsageError(f"--route {route} takes one folder in Hugging Face format; give one")
    if checkpoint is not None:
        raise UsageError(f"--route {route} runs the folder itself; leave --checkpoint out")
    folder = Path(models[0]).expanduser()
    if not folder.is_dir():
        raise UsageError(f"--route {route}: there is no folder {brief(models[0])}; give one in Hugging Face format")
    raw_config(folder)
    folder = folder.resolve()
    text = _TEXT.format(route=route, called=called, variable=_VARIABLE, name=_name(folder), folder=str(folder))

    def make(made: Path) -> None:
        (made / _FILE).write_text(text, encoding="utf-8")

    file = Cache.standard().build(SPECS, key_of({"spec": text}), make) / _FILE
    return [f"{file}:{_VARIABLE}"], None if miniature else str(folder)


def _name(folder: Path) -> str:
    """What the folder is called, as far as a run may be called so."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", folder.name).lstrip(".")[:_LONGEST] or "model"
