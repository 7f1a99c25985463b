"""What a spec replaces in torch and transformers while it is loaded: functions, methods, classes, entries of tables,
and modes that it enters, which get every call of torch.

In: what they held before, and what they hold now. Out: each replacement, the file that it comes from, and a way back.

`harness/spec/replaced.py` looks at a route's package, whose code a model may change on purpose: the flatbuffer is made
with that, and compared. torch and transformers are what the reference is made of: with other code it is not the
published model.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodDescriptorType, ModuleType, WrapperDescriptorType
from typing import Any

from harness.names.codes import FindingCode
from harness.names.owners import SPEC
from harness.record.record import Finding
from harness.spec.imports import without_collecting

_TORCH = "torch"
_PACKAGES = frozenset({_TORCH, "transformers"})
# Parts of torch that models are made of and compute with, and parts of transformers that none computes with. All of
# torch has three times as many names, and each stage would have to look at them.
_TORCH_PARTS = ("torch.nn", "torch.special", "torch.linalg", "torch.fft")
_TORCH_MODULES = frozenset({"torch", "torch.functional", "torch._tensor", "torch._ops", "torch._C", "torch._C._nn"})
_ELSEWHERE = tuple(f"transformers.{part}" for part in ("generation", "quantizers", "distributed", "data", "trainer"))
_WITH_TABLES = ("transformers", "torch.nn")
# Hooks that torch calls for every module: an entry of these is a replacement though none was there before.
_HOOKS = tuple(f"torch.nn.modules.module._global_forward_{kind}" for kind in ("hooks", "pre_hooks"))
_OWN = str(Path(__file__).resolve().parents[1])
_NOTHING: Any = object()
_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType)
_RAW = (property, staticmethod, classmethod)
_COMPUTING = ("/CPU", "Autograd", "AutogradCPU")  # ends of the keys of kernels that numbers come from
_SHOWN = 6  # names in one finding


@dataclass(frozen=True)
class Replaced:
    """place: the module, the class or the table. now: what stands there. undo: puts back what was there, if it can."""

    place: str
    name: Hashable
    now: Any
    undo: Callable[[], object] | None

    @property
    def words(self) -> str:
        return f"{self.place}.{self.name}"

    @property
    def in_torch(self) -> bool:
        return self.place.partition(".")[0] == _TORCH

    @property
    def source(self) -> str:
        """The file that the replacement was written in; of what has none, its own name."""
        return _source_of(self.now)


@dataclass
class _Held:
    """values: what each place holds. codes: of each function, by its id. kernels: of torch's operators.

    modes: how many of each kind are entered.
    """

    holders: dict[str, Any] = field(default_factory=dict)
    values: dict[str, dict[Hashable, Any]] = field(default_factory=dict)
    codes: dict[int, CodeType] = field(default_factory=dict)
    kernels: frozenset[str] = frozenset()
    modes: Mapping[str, int] = field(default_factory=dict)
    _tables: set[int] = field(default_factory=set)  # ids of those that are known by a name already

    @classmethod
    def now(cls) -> _Held:
        held = cls(kernels=_kernels(), modes={kind: len(entered()) for kind, (entered, _) in _modes().items()})
        held.note_all()
        return held

    def note_all(self) -> None:
        """All modules that are not known yet."""
        with without_collecting():
            for name, module in list(sys.modules.items()):
                if _counts(name) and name not in self.holders and isinstance(module, ModuleType):
                    self.note(module, name)

    def note(self, module: ModuleType, name: str) -> None:
        """A module, the classes that are its own, and the tables of both."""
        for attribute, value in self._take(name, module, vars(module)).items():
            # Not isinstance: some of torch's objects warn when they are asked what they are.
            kind = type(value)
            if issubclass(kind, type) and vars(value).get("__module__") == name and kind.__name__ != "tensortype":
                self._take(f"{name}.{attribute}", value, vars(value))

    def _take(self, place: str, holder: Any, entries: Mapping[Any, Any]) -> dict[Hashable, Any]:
        held = dict(entries)
        self.holders[place], self.values[place] = holder, held
        self.codes.update({id(value): value.__code__ for value in held.values() if type(value) is FunctionType})
        if place.startswith(_WITH_TABLES):
            for name, value in held.items():
                if issubclass(type(value), dict) and name[:2] != "__" and id(value) not in self._tables:
                    self._tables.add(id(value))
                    self.holders[f"{place}.{name}"], self.values[f"{place}.{name}"] = value, dict(dict.items(value))
        return held


@dataclass
class Watched:
    """replaced: known once the block that watches has been left."""

    replaced: list[Replaced] = field(default_factory=list)

    def undo(self) -> None:
        for entry in self.replaced:
            if entry.undo is not None:
                entry.undo()


_at_start: _Held | None = None


def remember() -> None:
    """Keep what the packages hold now, for this process and all that are forked from it."""
    global _at_start
    _at_start = _Held.now()


@contextmanager
def watching() -> Iterator[Watched]:
    """What is replaced in here. A module that is imported in here counts as it was when its own code had run."""
    found, before = Watched(), _at_start or _Held.now()
    before.note_all()
    finder = _Noting(before)
    sys.meta_path.insert(0, finder)
    try:
        yield found
    finally:
        sys.meta_path.remove(finder)
    found.replaced = _replaced_since(before)


def findings_of(spec: Path, replaced: Sequence[Replaced]) -> list[Finding]:
    """An error for each file that replacements come from.

    What torch computes is part of every stage but the reference, so where it is replaced faults are the spec's.
    """
    sources: dict[str, list[Replaced]] = {}
    for entry in replaced:
        sources.setdefault(entry.source, []).append(entry)
    return [_finding(spec, source, entries) for source, entries in sources.items()]


def _finding(spec: Path, source: str, entries: list[Replaced]) -> Finding:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    names = ", ".join(entry.words for entry in entries[:_SHOWN]) + more
    in_torch = any(entry.in_torch for entry in entries)
    if any(entry.undo is None for entry in entries):
        runs = "every stage runs with that, so the reference is not the published model"
    elif in_torch:
        runs = "the re-authored model and its conversion run with that, oracle and hf without it"
    else:
        runs = "the published model is made of that, and oracle and hf run without it"
    what = f"{spec} replaces {names} by {source}; {runs}: take it out of the spec file"
    return Finding(
        kind="runtime",
        code=FindingCode.CODE_REPLACED,
        severity="error",
        what=what,
        owner=SPEC if in_torch else "",
    )


class _Noting:
    """Stands before the finders of modules, and looks at each module of the packages when its own code has run."""

    def __init__(self, held: _Held) -> None:
        self._held = held

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if _counts(name):
            for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
                find = getattr(finder, "find_spec", None)
                spec = find(name, path, target) if find is not None else None
                if spec is not None:
                    self._follow(spec.loader, name)
                    return spec
        return None

    def _follow(self, loader: Any, name: str) -> None:
        original = getattr(loader, "exec_module", None)
        if original is None or not hasattr(loader, "__dict__"):
            return

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            original(module)
            self._held.note(sys.modules.get(name, module), name)

        loader.exec_module = exec_module


def _replaced_since(before: _Held) -> list[Replaced]:
    now = _Held.now()
    found = [Replaced("torch.library", kernel, _NOTHING, None) for kernel in now.kernels - before.kernels]
    for kind, (entered, leave) in _modes().items():
        # The last one that was entered is left first, whichever of them that is.
        for mode in entered()[before.modes.get(kind, 0) :]:
            found.append(Replaced(_TORCH, f"{kind} (mode {type(mode).__name__})", mode, leave))
    for place in before.holders.keys() & now.holders.keys():
        if before.holders[place] is not now.holders[place]:
            continue  # a class that was replaced as a whole
        found += _replaced_in(place, before.holders[place], before.values[place], now.values[place])
    for place, values in now.values.items():
        found += _given_other_code(place, values, before.codes)
    theirs = [entry for entry in found if not _is_own(entry.now)]
    return sorted(theirs, key=lambda entry: entry.words)


def _replaced_in(place: str, holder: Any, old: dict[Hashable, Any], new: dict[Hashable, Any]) -> Iterator[Replaced]:
    for name, value in new.items():
        before = old.get(name, _NOTHING)
        if before is value:
            continue
        if before is not _NOTHING and _is_code(before):
            yield Replaced(place, name, value, functools.partial(_put, holder, name, before))
        elif before is _NOTHING and (place in _HOOKS or _hides_inherited(holder, name, value)):
            yield Replaced(place, name, value, functools.partial(_take_out, holder, name))
    for name in old.keys() - new.keys():
        if _is_code(old[name]):
            yield Replaced(place, name, _NOTHING, functools.partial(_put, holder, name, old[name]))


def _given_other_code(place: str, values: dict[Hashable, Any], codes: dict[int, CodeType]) -> Iterator[Replaced]:
    """Functions that are the same objects, and run something else."""
    for name, value in values.items():
        if type(value) is FunctionType and codes.get(id(value), value.__code__) is not value.__code__:
            yield Replaced(place, name, value, functools.partial(setattr, value, "__code__", codes[id(value)]))


def _counts(module: str) -> bool:
    if module.startswith("transformers"):
        return not module.startswith(_ELSEWHERE)
    return module in _TORCH_MODULES or module.startswith(_TORCH_PARTS)


def _is_own(value: Any) -> bool:
    """Whether Edge Parity has put something there itself: `harness/spec/witness.py` listens to what opens files."""
    return type(value).__module__.startswith("harness.") or _source_of(value).startswith(f"code of {_OWN}/")


def _is_code(value: Any) -> bool:
    """Whether something computes; a module that was not loaded and now is does not."""
    if type(value) is tuple:  # as tables hold a class with its arguments
        return any(map(_is_code, value))
    return not isinstance(value, ModuleType) and (callable(value) or isinstance(value, _RAW))


def _hides_inherited(holder: Any, name: Hashable, value: Any) -> bool:
    """Whether a class has a method of its own now where it had one of a class above it."""
    if not issubclass(type(holder), type) or not isinstance(value, (*_FUNCTIONS, *_RAW)):
        return False
    return any(name in vars(base) for base in holder.__mro__[1:] if base is not object)


def _modes() -> dict[str, tuple[Callable[[], list[Any]], Callable[[], object]]]:
    """What calls of torch are handed to: (the modes that are entered, what leaves the last one), by their method."""
    overrides, dispatch = (sys.modules.get(name) for name in ("torch.overrides", "torch.utils._python_dispatch"))
    if overrides is None or dispatch is None:
        return {}
    return {
        "__torch_function__": (overrides._get_current_function_mode_stack, overrides._pop_mode),
        "__torch_dispatch__": (dispatch._get_current_dispatch_mode_stack, dispatch._pop_mode),
    }


def _put(holder: Any, name: Any, value: Any) -> None:
    if isinstance(holder, dict):
        holder[name] = value
    else:
        setattr(holder, name, value)


def _take_out(holder: Any, name: Any) -> None:
    if isinstance(holder, dict):
        holder.pop(name, None)
    else:
        delattr(holder, name)


def _kernels() -> frozenset[str]:
    """Operators of torch's own that were given a kernel in Python."""
    known = getattr(sys.modules.get("torch.library"), "_impls", ())
    return frozenset(name for name in known if name.startswith("aten/") and name.endswith(_COMPUTING))


def _source_of(value: Any) -> str:
    if value is _NOTHING:
        return "nothing that could be looked at"
    for inner in ("__func__", "fget", "func"):
        value = getattr(value, inner, None) or value
    code = getattr(value, "__code__", None)
    if code is not None:
        return f"code of {code.co_filename}"
    kind = value if isinstance(value, type) else type(value)
    named = value if hasattr(value, "__qualname__") else kind
    module = getattr(named, "__module__", None) or kind.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if file and module.partition(".")[0] not in _PACKAGES:
        return f"code of {file}"
    return f"{module}.{named.__qualname__}"
