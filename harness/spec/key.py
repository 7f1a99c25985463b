"""Run a spec and know what it is: its code with all that it imports, what it reads, what it changes in packages.

In: where a spec is. Out: its model, and JSON-able content that differs where anything of that does.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, source_from_cache
from pathlib import Path

from harness.record.record import Finding
from harness.spec import numerics, patched
from harness.spec.code import OWN, SpecCode, edited_between, package_content, spec_code
from harness.spec.fingerprints import source_digest
from harness.spec.load import loaded_spec, module_name
from harness.spec.model import Model, SpecRef
from harness.spec.replaced import changes, namespaces
from harness.spec.witness import Seen
from harness.store.cache import Cache
from harness.store.digests import sha256_once
from harness.system.started import IMPORTED_AT

# Packages that read files in native code, where nobody hears which.
_UNHEARD = frozenset({"cv2", "h5py", "lmdb", "polars", "pyarrow", "sentencepiece", "soundfile", "tokenizers"})
_SMALL = 1_000_000  # bytes; larger files are read once per version


class KnownSpec:
    """A spec that runs under watch. What it reads counts where it is loaded, and in every `reading` block."""

    def __init__(self, ref: SpecRef) -> None:
        before, modules = namespaces(ref.file), frozenset(sys.modules)
        self._seen, self._own = Seen(), Seen(of_a_spec=True)
        # Whoever warns shows the line that called, and so opens the source of code that ran before the spec did.
        self._there = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
        self._since = time.time_ns()
        self._file, self._threads = ref.file, numerics.threads_now()
        with patched.watching() as self._patched, self.reading():
            self._loaded = loaded_spec(ref)
        self.model: Model = self._loaded.model
        self._changes = changes(before)
        self.code: SpecCode = spec_code(module_name(ref.file), modules)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What the spec's own functions read in here goes into what is made with it."""
        with self._seen.watching(), self._own.watching():
            yield

    def findings(self) -> list[Finding]:
        """What the spec does to its surroundings, its functions included that have run by now."""
        by_spec = {**numerics.settle(self._threads), **self._loaded.by_spec}
        outside = {**numerics.set_from_outside(), **self._loaded.outside}
        return [
            *patched.findings_of(self._file, self._patched.replaced),
            *numerics.findings_of(self._file, by_spec, outside),
        ]

    def content(self, cache: Cache) -> dict[str, object]:
        """All that a conversion may depend on beyond weights, config and sizes."""
        code = self.code
        packages = package_content(code.packages, cache.root)
        content: dict[str, object] = {
            "spec": code.digests(),
            "modules": sorted(source_digest(path) for path in self._further_modules()),
            "values": code.values(),
            "packages": packages,
            "changes": self._changes,
            "read": sorted(_digest(path, cache) for path in self._further_files(cache)),
            "environment": dict(sorted(self._seen.own.items())),
        }
        if code.edited_since(self._since) or _packages_edited(packages):
            # What was loaded may be another version than what lies there now: kept under a name nobody asks for.
            content["edited meanwhile"] = secrets.token_hex(8)
        if unseen := sorted(self._own.unseen | (code.packages & _UNHEARD)):
            print(f"no conversion of this spec is kept: it did or imports what cannot be checked again ({unseen[0]})")
            content["unseen"] = secrets.token_hex(8)
        return content

    def _further_modules(self) -> Iterator[Path]:
        """Sources that were imported in a way that leaves no module under their name."""
        known = set(self.code.files.values())
        for name in sorted(self._seen.modules):
            path = Path(source_from_cache(name) if name.endswith(".pyc") else name).resolve()
            if path not in known and not _is_own(path):
                yield path

    def _further_files(self, cache: Cache) -> Iterator[Path]:
        known = set(self.code.files.values())
        for name in sorted(self._seen.files - self._there):
            path = Path(name).resolve()
            if path.is_file() and path not in known and not _is_own(path) and not _is_in(cache, path):
                yield path


def _is_own(path: Path) -> bool:
    return path.is_relative_to(OWN)


def _is_in(cache: Cache, path: Path) -> bool:
    return path.is_relative_to(cache.root.resolve())


def _digest(path: Path, cache: Cache) -> str:
    try:
        return sha256_once(path, cache) if path.stat().st_size > _SMALL else source_digest(path)
    except OSError:
        return "cannot be read"


def _packages_edited(altered: dict[str, object]) -> bool:
    """Whether a file of a package was written after this process had imported it."""
    for package, files in altered.items():
        if not isinstance(files, dict):
            continue
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            if any(edited_between(Path(folder).parent / name, IMPORTED_AT) for name in files):
                return True
    return False
