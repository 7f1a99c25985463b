"""Which code a spec is made of, and what differs in the packages it is converted with from what their wheels brought.

In: a spec that has been loaded. Out: digests by name, for the keys of what is made with that code.

Installed packages count by their version, so that a fresh install of the same versions finds what another one made. An
editable checkout, and a file that was edited where it is installed, count by content.
"""

from __future__ import annotations

import ast
import base64
import csv
import functools
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.spec.fingerprints import fingerprint, source_digest
from harness.spec.route import converting, every_route
from harness.store.cache import Cache, sha256_of
from harness.store.digests import sha256_once

OWN = Path(__file__).resolve().parents[1]


def _places(*names: str) -> tuple[str, ...]:
    """Where Python keeps things, as it is called and as it is."""
    paths = [sysconfig.get_path(name) for name in names]
    return tuple({f"{form}{os.sep}" for path in paths for form in (path, Path(path).resolve())})


_SITE = _places("purelib", "platlib")
_STANDARD = _places("stdlib", "platstdlib")
_PLAIN = (int, float, complex, bool, str, bytes, tuple, list, dict, set, frozenset)
_TICK = 20_000_000  # ns; a file system's clock may be this much too slow


@dataclass(frozen=True)
class SpecCode:
    """files: the spec, and the modules it imports that are in no installed package, by name. packages: top-level names
    of the installed ones that it imports; standard: those of Python's own.
    """

    files: Mapping[str, Path]
    packages: frozenset[str]
    standard: frozenset[str] = frozenset()

    def digests(self) -> dict[str, str]:
        return {name: source_digest(path) for name, path in sorted(self.files.items())}

    def values(self) -> dict[str, str]:
        """Plain values that the modules hold: a number that was computed when they were loaded is in no source."""
        return {
            f"{name}.{variable}": fingerprint(value)
            for name in sorted(self.files)
            for variable, value in sorted(vars(sys.modules[name]).items() if name in sys.modules else ())
            if isinstance(value, _PLAIN) and not variable.startswith("__") and not _is_path(value)
        }

    def edited_since(self, since_ns: int) -> bool:
        """Whether a file was written between a time and now, so that what was loaded of it may be another version."""
        return any(edited_between(path, since_ns) for path in self.files.values())


def is_installed(path: str) -> bool:
    """Whether a file belongs to the standard library or lies among the installed packages."""
    return path.startswith((*_SITE, *_STANDARD)) or "/dist-packages/" in path


def is_standard(path: str) -> bool:
    """Whether a file belongs to the standard library."""
    return path.startswith(_STANDARD) and not path.startswith(_SITE) and "-packages/" not in path


def is_data(path: str) -> bool:
    """Whether an installed file is neither code nor what an installer has noted, e.g. weights that a wheel brings."""
    return not is_code(path) and not path.endswith(".pyc") and ".dist-info/" not in path and not is_standard(path)


def edited_between(path: Path, since_ns: int) -> bool:
    """Whether a file's last change lies between a time and now."""
    try:
        changed = path.stat().st_ctime_ns
    except OSError:
        return True
    return since_ns - _TICK <= changed <= time.time_ns()


def spec_code(spec: str, already: Iterable[str] = ()) -> SpecCode:
    """The code of a loaded spec. spec: name of its module. already: modules that were there before it was loaded.

    What it imports is read off its source, down to functions, and off the modules that came with it.
    """
    before = frozenset(already) or frozenset(sys.modules)
    # Which installed ones came with it depends on what was there before.
    came = [name for name in list(sys.modules) if name not in before]
    waiting = [spec, *(name for name in came if not is_installed(str(_file_of(name) or sys.prefix)))]
    made_with = converting()
    files: dict[str, Path] = {}
    packages: set[str] = set()
    standard: set[str] = set()
    while waiting:
        name = waiting.pop()
        top = name.split(".")[0]
        if top in sys.stdlib_module_names:
            standard.add(top)
            continue
        path = None if name in files else _file_of(name)
        if path is None or path.is_relative_to(OWN):
            continue
        if top in made_with or is_installed(str(path)):
            packages.add(top)
            continue
        files[name] = path
        waiting += _imported(name, path)
    return SpecCode(files, frozenset(packages), frozenset(standard))


def _file_of(name: str) -> Path | None:
    """The file of a module, imported or not; None for one that has none, or that is not there."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return Path(file).resolve() if isinstance(file, str) and os.path.isabs(file) else None
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin).resolve() if spec.origin and os.path.isabs(spec.origin) else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *rest)
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                return file.resolve()
    return None


def _imported(name: str, path: Path) -> list[str]:
    """Modules that a source file names in its imports, those inside functions too, and the packages they lie in."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    module = sys.modules.get(name)
    package = getattr(module, "__package__", None) or name.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module or "") if part)
            found += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    parents = [name.rsplit(".", count)[0] for name in found for count in range(1, name.count(".") + 1)]
    return [*found, *parents]


def _is_path(value: Any) -> bool:
    """Where something lies does not matter, but what is in it."""
    return isinstance(value, str) and os.path.isabs(value)


def package_content(packages: Iterable[str], cache_root: Path) -> dict[str, object]:
    """What is not as installed in `packages` and those that conversions are made with; versions of the former."""
    found: dict[str, object] = {}
    made_with = converting()
    for package in sorted({*made_with, *packages}):
        distribution = made_with.get(package) or _distribution_of(package)
        altered = altered_files(package, distribution, cache_root)
        if altered:
            found[package] = altered
        if package not in made_with:
            found[f"{package} version"] = _version(distribution)
    return found


def _version(distribution: str | None) -> str:
    try:
        return importlib.metadata.version(distribution or "")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""


def _distribution_of(package: str) -> str | None:
    """Nearly all are called as their package is; to look through all of them takes a second."""
    return package if _version(package) else next(iter(_distributions().get(package, [])), None)


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def altered_files(package: str, distribution: str | None, cache_root: Path) -> dict[str, str]:
    """Digests of a package's code files that are not what its wheel brought, by path. Empty where all are.

    A file is taken for unchanged where its size is the listed one and it was written before the list, which an
    installer writes last. All others are read (libraries once per version), and so are all sources of a package that
    people edit. Asked once per process: what was imported is what was there then.
    """
    root = _folder_of(package)
    if root is None:
        return {}
    listed, written = _listed(distribution)
    found, edited = {}, package in _edited()
    for path in _code_files(root):
        entry = listed.pop(str(path), None)
        if entry is None or not _as_installed(path, entry, written, edited, cache_root):
            name = path.relative_to(root.parent).as_posix()
            found[name] = source_digest(path) if path.suffix == ".py" else sha256_once(path, Cache(cache_root))
    gone = [path for path in listed if path.startswith(f"{root}{os.sep}")]
    return found | {Path(path).relative_to(root.parent).as_posix(): "gone" for path in gone}


def converting_files() -> list[str]:
    """Code of the packages that conversions are made with; of those that people edit also the folders, where a file
    may be new.
    """
    found: list[str] = []
    for package in converting():
        root = _folder_of(package)
        files = list(_code_files(root)) if root is not None else []
        found += map(str, files)
        found += {str(file.parent) for file in files} if package in _edited() else ()
    return found


def _edited() -> frozenset[str]:
    """Packages that people edit: their sources are always read, whatever their dates say."""
    return frozenset(package for route in every_route() for package in route.packages.edited)


def _folder_of(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0]).resolve() if folders else None


def _code_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", "node_modules", ".git"))
        yield from (Path(folder, name) for name in sorted(names) if is_code(name))


def is_code(name: str) -> bool:
    return name.endswith((".py", ".so", ".pyd", ".dylib")) or ".so." in name


def _listed(distribution: str | None) -> tuple[dict[str, tuple[str, int]], tuple[int, int]]:
    """Absolute path -> (digest as RECORD spells it, size) of a wheel's code files; and the `_times` of that list."""
    try:
        found = importlib.metadata.distribution(distribution or "")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return {}, (0, 0)
    record = found.read_text("RECORD") or ""
    base = Path(str(found.locate_file(""))).resolve()
    files: dict[str, tuple[str, int]] = {}
    written = (0, 0)
    for row in csv.reader(record.splitlines()):
        if len(row) == 3 and is_code(row[0]) and row[2].isdigit():
            files[os.path.normpath(base / row[0])] = (row[1], int(row[2]))
        elif row and row[0].endswith(".dist-info/RECORD"):
            written = _times((base / row[0]).stat())
    return files, written


def _times(facts: os.stat_result) -> tuple[int, int]:
    """The last change of content, which may be set, and of anything, which a copy of the whole moves; in ns."""
    return facts.st_mtime_ns, facts.st_ctime_ns


def _as_installed(path: Path, entry: tuple[str, int], written: tuple[int, int], always: bool, cache_root: Path) -> bool:
    digest, size = entry
    facts = path.stat()
    if facts.st_size != size:
        return False
    source = path.suffix == ".py"
    earlier = all(own <= listed for own, listed in zip(_times(facts), written, strict=True))
    if earlier and not (always and source):
        return True
    found = sha256_of(path) if source else sha256_once(path, Cache(cache_root))
    return f"sha256={base64.urlsafe_b64encode(bytes.fromhex(found)).rstrip(b'=').decode()}" == digest
