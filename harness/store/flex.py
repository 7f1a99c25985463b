"""An environment of its own for files that need TensorFlow's operators (Flex), which no runtime of today has.

In: the cache. Out: the interpreter of that environment, or None; and the environment, whole or not at all. TensorFlow
2.19 is the last one that carries the Flex delegate, and it does not install beside the packages of a run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.plain import one_line
from harness.store.cache import ENTRY_FILE, Cache, key_of

FLEX = "flex"  # the kind of its entry in the cache
INSTALL = "edge-parity doctor --install-flex"
RUNTIME = "tensorflow 2.19.1 and tensorflow-text 2.19.0"
BYTES = 2_100_000_000  # that it takes
ROOM = 3_500_000_000  # bytes free to build it: what is downloaded lies beside it meanwhile
# As pip resolved it, so that it is the same environment each time.
PINS = (
    "absl-py==2.5.1", "astunparse==1.6.3", "certifi==2026.10.19.post1", "charset-normalizer==3.5.3",
    "flatbuffers==25.12.19", "gast==0.7.0", "google-pasta==0.2.0", "grpcio==1.85.3", "h5py==3.16.0", "idna==3.20",
    "keras==3.15.1", "libclang==18.1.1", "markdown==3.11.3", "markdown-it-py==4.3.0", "markupsafe==3.0.4",
    "mdurl==0.1.2", "ml-dtypes==0.6.0", "namex==0.1.0", "numpy==2.1.3", "opt-einsum==3.4.0", "optree==0.20.0",
    "packaging==26.4", "protobuf==5.29.6", "pygments==2.21.0", "requests==2.34.2", "rich==15.0.0",
    "setuptools==84.2.1", "six==1.17.0", "tensorboard==2.19.0", "tensorboard-data-server==0.7.2",
    "tensorflow==2.19.1", "tensorflow-io-gcs-filesystem==0.37.1", "tensorflow-text==2.19.0", "termcolor==3.3.0",
    "typing-extensions==4.16.0", "urllib3==2.8.0", "werkzeug==3.1.9", "wheel==0.48.0", "wrapt==2.5.2",
)  # fmt: skip
_PYTHONS = ((3, 11), (3, 12))  # that all of those have wheels for
_LOOKS = "import tensorflow, tensorflow_text; tensorflow_text.tflite_registrar.SELECT_TFTEXT_OPS"

Say = Callable[[float, float, str], None]
"""How far it is: done, of how much, and what is done now."""


def interpreter(cache: Cache) -> Path | None:
    """The interpreter of the environment; None where it was not built, or a part of it is gone."""
    folder = folder_of(cache)
    python = folder / "bin" / "python"
    return python if (folder / ENTRY_FILE).is_file() and os.access(python, os.X_OK) else None


def build(cache: Cache, say: Say) -> tuple[Path, bool]:
    """The folder of the environment, looked through or built now, and whether it was built now.

    Raises UsageError where there is no room, no package index or no Python that it can be built with.
    """
    made = False

    def make(folder: Path) -> None:
        nonlocal made
        made = True
        _check_room(cache.root)
        python = _python()
        _run([str(python), "-m", "venv", "--without-pip", str(folder)])
        _install(folder / "bin" / "python", say)
        for script in (folder / "bin").iterdir():  # they name the folder in which they were made
            if not script.name.startswith("python"):
                script.unlink()

    def verify(folder: Path) -> None:
        say(len(PINS), len(PINS) + 1, "importing it")
        _run([str(folder / "bin" / "python"), "-I", "-B", "-c", _LOOKS])

    say(0, len(PINS) + 1, "looking for it")
    folder = cache.build(FLEX, _key(), make, verify)
    return folder, made


def folder_of(cache: Cache) -> Path:
    """Where it lies when it is there."""
    return cache.root / FLEX / _key()


def _key() -> str:
    return key_of({"packages": list(PINS), "python": [f"{major}.{minor}" for major, minor in _PYTHONS]})


def _check_room(root: Path) -> None:
    free = shutil.disk_usage(next(place for place in (root, *root.absolute().parents) if place.exists())).free
    if free < ROOM:
        raise UsageError(
            f"{root} has {free / 1e9:.1f} GB free, and building the Flex environment needs {ROOM / 1e9:.1f} GB; free "
            "space there, or set EDGE_PARITY_CACHE to another folder"
        )


def _python() -> Path:
    """An interpreter that the packages have wheels for: this one, or one that is found by its name."""
    if sys.version_info[:2] in _PYTHONS:
        return Path(sys.executable)
    for major, minor in _PYTHONS:
        found = shutil.which(f"python{major}.{minor}")
        works = found and subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode == 0
        if found and works:
            return Path(found)
    raise UsageError(f"{RUNTIME} have no wheels for Python {sys.version_info[0]}.{sys.version_info[1]}; install 3.12")


def _install(python: Path, say: Say) -> None:
    """By the pip of this environment: the new one has none."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
    words = [*pip, "--no-compile", "--no-deps", "--only-binary=:all:", "--progress-bar=off", *PINS]
    said: list[str] = []
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said.append(line)
                begun = sum(entry.startswith("Collecting ") for entry in said)
                if line.lstrip().startswith(("Collecting", "Downloading", "Installing")):
                    say(max(begun - 1, 0), len(PINS) + 1, " ".join(line.split()[:2]))
        finally:
            process.kill()
    if process.returncode:
        raise UsageError(why_not_installed("".join(said)))


_NO_ROOM = re.compile(r"No space left on device|Errno 28|Disk quota exceeded", re.IGNORECASE)
_NO_INDEX = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution|Could not find a version|timed out|"
    r"No matching distribution|ConnectionError|ProxyError|SSLError|Connection refused",
    re.IGNORECASE,
)


def why_not_installed(said: str) -> str:
    """What pip said, as one line with its remedy."""
    errors = [line.strip() for line in said.splitlines() if line.startswith("ERROR:")]
    last = one_line(errors[-1] if errors else (said.strip().splitlines() or ["no word"])[-1], 200)
    if _NO_ROOM.search(said):
        return f"the Flex environment is not built: there is no room for it ({last}); free {ROOM / 1e9:.1f} GB"
    if _NO_INDEX.search(said):
        return (
            f"the Flex environment is not built: pip finds no package index that has {RUNTIME} ({last}); run it where "
            "there is a network, or point PIP_INDEX_URL or PIP_FIND_LINKS at one that has them"
        )
    return f"the Flex environment is not built: pip failed ({last}); run '{INSTALL}' again"


def _run(words: Sequence[str]) -> None:
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = one_line((ended.stderr.strip().splitlines() or ["no word"])[-1], 200)
        raise UsageError(
            f"the Flex environment is not built: {Path(words[0]).name} failed ({last}); run '{INSTALL}' again"
        )
