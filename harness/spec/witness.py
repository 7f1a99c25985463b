"""What a piece of work looks at beyond its arguments: files, folders, the environment.

In: a block of code. Out: `Seen`: what it opened or asked for, what was not there, and whether it did something that
leaves no trace here. Python's own audit events tell of files and folders; `os.stat` tells of what code in C then opens
(a tokenizer, safetensors), and of what was looked for in vain.
"""

from __future__ import annotations

import functools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.spec.code import OWN, is_data, is_installed

# What may answer differently the next time, and nobody could tell.
_UNSEEN = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect", "socket.getaddrinfo",
     "urllib.Request", "sqlite3.connect", "ctypes.dlopen"}
)  # fmt: skip
_LISTED = frozenset({"os.listdir", "os.scandir"})
# Functions of packages that open files in native code, where Python hears nothing: (module, what in it).
_NATIVE = (
    ("safetensors", "safe_open"), ("safetensors.numpy", "safe_open"), ("safetensors.torch", "safe_open"),
    ("torch", "from_file"),
)  # fmt: skip
_NO_FILES = ("/proc/", "/sys/", "/dev/")
_IMPORTS = "<frozen importlib._bootstrap_external>"
_WRITES_ONLY = os.O_WRONLY
_OURS = f"{OWN}{os.sep}"


@dataclass(eq=False)  # each is its own: one is taken from the list of those that watch
class Seen:
    """What was seen, as absolute paths outside the installed packages.

    files: opened, or asked whether they are there; modules: opened to be imported. folders: existing ones that were
    asked for; absent: asked for and not there. listed: folders whose names were read; importing: those where modules
    were looked for. environment: variables that were read; own: those that code outside installed packages read.
    unseen: what it did that nobody can check again. relative: whether a path depended on the folder it ran in.
    of_a_spec: note only what the code of a spec does, or causes a package to do.
    """

    of_a_spec: bool = False
    files: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    importing: set[str] = field(default_factory=set)
    environment: dict[str, str | None] = field(default_factory=dict)
    own: dict[str, str | None] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)
    relative: bool = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what happens in this process as long as this lasts. May be entered again."""
        _watch()
        _eyes.append(self)
        try:
            yield
        finally:
            _eyes.remove(self)
            if not _eyes:
                _unwatch()

    def path(self, given: Any) -> str | None:
        """The absolute path of a file argument; None for a descriptor and for what no run depends on."""
        try:
            name = os.fsdecode(os.fspath(given))
        except (TypeError, ValueError):
            return None
        if not os.path.isabs(name):
            self.relative = True
        path = os.path.abspath(name)
        if path.startswith(_NO_FILES) or (is_installed(path) and not is_data(path)):
            return None
        return path


_eyes: list[Seen] = []
_hooked = False
_originals: dict[str, Callable[..., Any]] = {}
_environ: Any = type(os.environ)
_read_variable: Callable[..., Any] = _environ.__getitem__


@contextmanager
def unheard() -> Iterator[None]:
    """What happens in here is ours and not what anybody watches."""
    watching, _eyes[:] = list(_eyes), []
    try:
        yield
    finally:
        _eyes[:] = watching


def _watch() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_on_event)  # it cannot be taken away again, but says nothing to nobody
    if _originals:
        return
    for name in ("stat", "lstat", "access", "readlink", "open"):
        _originals[name] = getattr(os, name)
        setattr(os, name, _asked(_originals[name]))
    listen_to_native_code()
    _environ.__getitem__ = _get_variable


def listen_to_native_code() -> None:
    """Hear of files that packages open in native code, those packages that are imported. Stays for good.

    A spec may keep such a function under a name of its own, so it must be ours before the spec is loaded.
    """
    for name, what in _NATIVE:
        opener = getattr(sys.modules.get(name), what, None)
        if opener is not None and not isinstance(opener, _Heard):
            setattr(sys.modules[name], what, _Heard(opener))


class _Heard:
    """A function or class that opens the file it is given first, noting which."""

    def __init__(self, opener: Any) -> None:
        self._opener = opener
        functools.update_wrapper(self, opener, updated=())

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        for path in (*arguments, *options.values())[:1]:
            _note(path, True)
        return self._opener(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opener, name)


def _unwatch() -> None:
    for name, original in _originals.items():
        setattr(os, name, original)
    _originals.clear()
    _environ.__getitem__ = _read_variable


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if not _eyes:
        return
    if event == "open":
        path, mode, flags = arguments
        if (mode is not None and mode[:1] in "wxa") or (mode is None and flags is not None and flags & _WRITES_ONLY):
            return
        by_import = _by_import()
        for eye in _watching():
            found = eye.path(path)
            if found is not None:
                (eye.modules if by_import else eye.files).add(found)
    elif event in _LISTED:
        by_import = _by_import()
        for eye in _watching():
            found = eye.path("." if arguments[0] is None else arguments[0])
            if found is not None and not is_installed(found):
                (eye.importing if by_import else eye.listed).add(found)
    elif event in _UNSEEN:
        _note_unseen(event)


def _note_unseen(what: str) -> None:
    """Only that of a spec counts where only a spec is watched, and no package that it imports."""
    importing = _while_imported()
    for eye in _watching():
        if not (eye.of_a_spec and importing):
            eye.unseen.add(what)


def _while_imported() -> bool:
    """Whether the import machinery stands between what happens and the first code that is not installed."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib"):
            return True
        if file != __file__ and not file.startswith("<") and not is_installed(file):
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _watching() -> list[Seen]:
    """Those that take down what happens now."""
    if any(eye.of_a_spec for eye in _eyes) and not _caused_by_a_spec():
        return [eye for eye in _eyes if not eye.of_a_spec]
    return list(_eyes)


def _caused_by_a_spec() -> bool:
    """Whether code that is neither installed nor ours is at work, as far down as our own."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OURS) and file != __file__:
            return False
        if not file.startswith("<") and file != __file__ and not is_installed(file):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _by_import() -> bool:
    """Whether the import machinery caused the event that is being told."""
    return sys._getframe(2).f_code.co_filename == _IMPORTS


def _asked(original: Callable[..., Any]) -> Callable[..., Any]:
    """`os.stat` and its like, noting what they are asked about."""

    def asking(path: Any, *arguments: Any, **options: Any) -> Any:
        if options.get("dir_fd") is not None and _caused_by_a_spec():  # no path says which file that is
            _note_unseen(f"{original.__name__} with dir_fd")
        try:
            answer = original(path, *arguments, **options)
        except OSError:
            _note(path, False)
            raise
        if original.__name__ != "open":  # whose own event tells whether it only writes
            _note(path, answer is not False)
        return answer

    return asking


def _note(path: Any, there: bool) -> None:
    for eye in _watching():
        found = eye.path(path)
        if found is None:
            continue
        if not there and not _there(found):
            if not is_installed(found):
                eye.absent.add(found)
        elif not _there(found, stat.S_ISDIR):
            eye.files.add(found)
        elif not is_installed(found):
            eye.folders.add(found)


def _there(path: str, kind: Callable[[int], bool] = bool) -> bool:
    """Whether a path is there and of a kind, without being heard."""
    try:
        return bool(kind(_originals.get("stat", os.stat)(path).st_mode))
    except OSError:
        return False


def _get_variable(environ: Any, name: Any) -> Any:
    try:
        value = _read_variable(environ, name)
    except KeyError:
        _note_variable(name, None)
        raise
    _note_variable(name, value)
    return value


def _note_variable(name: Any, value: str | None) -> None:
    if isinstance(name, str):
        for eye in _watching():
            eye.environment[name] = value
            if _asked_by_own_code():
                eye.own[name] = value


def _asked_by_own_code() -> bool:
    """Whether the first caller that is neither Python's nor this file's lies outside the installed packages."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith("<") and file != __file__ and not _is_standard(file):
            return not is_installed(file)
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _is_standard(file: str) -> bool:
    return os.path.dirname(file) == os.path.dirname(os.__file__)
