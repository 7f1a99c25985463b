"""What a conversion is kept under differs where the spec differs, or what it imports, reads, computes or changes."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401 - what opens files in native code is known before a spec is loaded, as in a run
from paths import ROOT

from harness.spec import code as spec_code
from harness.spec import replaced
from harness.spec.fingerprints import fingerprint
from harness.spec.key import KnownSpec
from harness.spec.model import SpecRef
from harness.store.cache import Cache

pytestmark = pytest.mark.slow

DECLARATION = """
from harness import GenerativeModel
MODEL = GenerativeModel(name="m", hf_id="o/m", config=dict, model_class=dict, tensor_names=None, published=dict)
"""
AGED = 0.05  # seconds after which a file does not count as edited while it was loaded
Content = dict[str, Any]


class Workplace:
    """A folder with a spec and what it uses; `content` loads it as a new process would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(text)
        time.sleep(AGED)

    def forget(self) -> None:
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == "torch":  # some of its modules answer whatever they are asked for
                continue
            places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
            if any(str(place).startswith(str(self.folder)) for place in places):
                del sys.modules[name]

    def content(self) -> Content:
        self.forget()
        importlib.invalidate_caches()
        for cached in self.folder.rglob("__pycache__"):  # its date is too coarse to tell two edits of one second apart
            shutil.rmtree(cached)
        found = KnownSpec(SpecRef(self.folder / "spec.py", "MODEL", {})).content(Cache(self.folder / "cache"))
        assert "edited meanwhile" not in found
        json.dumps(found)
        return found


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "spec.py").write_text(DECLARATION)
    place = Workplace(tmp_path)
    yield place
    place.forget()


BESIDE = "pathlib.Path(__file__).with_name('my_layers.py')"
IMPORTS = {
    "import my_layers": "my_layers.py",
    "from my_layers import scale": "my_layers.py",
    "import my_package.inner.my_norm": "my_package/inner/my_norm.py",
    "from my_package.inner import my_norm": "my_package/inner/my_norm.py",
    "from my_namespace import my_norm": "my_namespace/my_norm.py",
    "import my_between": "my_layers.py",
    "from my_relative import outer": "my_relative/deep.py",
    "def late():\n    from my_layers import scale": "my_layers.py",
    "import importlib\nimportlib.import_module('my_' + 'layers')": "my_layers.py",
    f"import runpy, pathlib\nrunpy.run_path(str({BESIDE}))": "my_layers.py",
    "import importlib.util as u, pathlib\n"
    f"s = u.spec_from_file_location('x', {BESIDE})\ns.loader.exec_module(u.module_from_spec(s))": "my_layers.py",
}


@pytest.mark.parametrize(
    ("statement", "helper"),
    [pytest.param(*item, marks=pytest.mark.slow if number else ()) for number, item in enumerate(IMPORTS.items())],
)
def test_an_edited_helper_is_another_spec_however_it_is_imported(work: Workplace, statement: str, helper: str) -> None:
    files = {
        "spec.py": f"{statement}\n{DECLARATION}",
        "my_layers.py": "scale = 1.01",
        "my_package/__init__.py": "",
        "my_package/inner/__init__.py": "",
        "my_package/inner/my_norm.py": "scale = 1.01",
        "my_namespace/my_norm.py": "scale = 1.01",
        "my_between.py": "def late():\n    import my_layers",
        "my_relative/__init__.py": "from . import deep",
        "my_relative/outer.py": "from .deep import scale",
        "my_relative/deep.py": "scale = 1.01",
    }
    work.write(files)
    before = work.content()
    work.write({helper: "scale = 1.01  # as published"})
    assert work.content() == before, "a remark is not other code"
    work.write({helper: "scale = 1.00"})
    assert work.content() != before


def test_what_nobody_imports_is_no_part_of_it(work: Workplace) -> None:
    work.write({"my_layers.py": "scale = 1.01"})
    before = work.content()
    work.write({"my_layers.py": "scale = 1.00", "another.py": "import my_layers"})
    assert work.content() == before


@pytest.mark.parametrize(
    "statement",
    [
        "import json\nSCALE = [json.load(open('{folder}/data.json'))]",
        "from pathlib import Path\ndef f(x=Path('{folder}/data.json').read_bytes()): return x",
        "import numpy\nTABLE = object(), numpy.fromfile('{folder}/data.json', dtype='u1')",
        "exec(open('{folder}/data.json').read())",
        "import torch\nTABLE = object(), torch.from_file('{folder}/data.json', size=4, dtype=torch.uint8)",
    ],
)
def test_a_file_that_the_spec_reads_is_part_of_it(work: Workplace, statement: str) -> None:
    work.write({"data.json": "1.01", "spec.py": statement.format(folder=work.folder) + DECLARATION})
    before = work.content()
    assert work.content() == before
    work.write({"data.json": "1.00"})
    assert work.content() != before


@pytest.mark.parametrize(
    "statement",
    [
        "import subprocess\nTABLE = object(), subprocess.check_output(['true'])",
        "import sqlite3\nTABLE = object(), sqlite3.connect(':memory:')",
        "try:\n    import h5py\nexcept ImportError:\n    pass",
    ],
)
def test_what_nobody_can_look_at_again_is_kept_under_a_name_nobody_asks_for(work: Workplace, statement: str) -> None:
    work.write({"spec.py": statement + DECLARATION})
    assert work.content() != work.content()


def test_an_import_that_loads_a_library_is_nothing_unseen(work: Workplace) -> None:
    work.write({"spec.py": "import ctypes.util\nimport numba" + DECLARATION})
    assert work.content() == work.content()


def test_a_variable_that_the_spec_reads_is_part_of_it_and_another_is_not(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.write({"spec.py": "import os\nclass Own: scale = os.environ.get('MY_SCALE', 'none')" + DECLARATION})
    found = [work.content()]
    for value in ("1.01", "1.00"):
        monkeypatch.setenv("MY_SCALE", value)
        found.append(work.content())
    assert len({json.dumps(one) for one in found}) == 3
    monkeypatch.setenv("MY_OTHER", "1")
    assert work.content() == found[-1]


def test_a_number_that_is_computed_when_the_spec_is_loaded_is_part_of_it(work: Workplace) -> None:
    work.write({"spec.py": "import sys\nSCALE = (1.0, getattr(sys, 'my_scale', 1.01))" + DECLARATION})
    before = work.content()
    try:
        sys.my_scale = 1.00  # type: ignore[attr-defined]
        assert work.content() != before
    finally:
        del sys.my_scale  # type: ignore[attr-defined]


def test_two_processes_find_the_same(work: Workplace, tmp_path: Path) -> None:
    work.write({"spec.py": "import my_layers\nNAMES = {'b', 'a', 'c'}\n" + DECLARATION, "my_layers.py": "scale = 1.01"})
    script = (
        "import json, sys; from pathlib import Path; from harness.spec.key import *\n"
        "from harness.spec.model import SpecRef\n"
        "print(json.dumps(KnownSpec(SpecRef(Path(sys.argv[1]), 'MODEL', {})).content(Cache(Path(sys.argv[2])))))"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "spec.py"), str(tmp_path / "cache")]
    said = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        said.append(subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout)
    assert said[0] == said[1]
    assert "my_layers" in said[0]


def test_what_is_edited_while_it_is_loaded_is_kept_under_a_name_nobody_asks_for(work: Workplace) -> None:
    edits = "import pathlib\npathlib.Path(__file__).with_name('my_layers.py').write_text('scale = 1.00')\n"
    work.write({"spec.py": f"{edits}def late(): import my_layers\n{DECLARATION}", "my_layers.py": "scale = 1.01"})
    cache = Cache(work.folder / "cache")
    found = [KnownSpec(SpecRef(work.folder / "spec.py", "MODEL", {})).content(cache) for _ in range(2)]
    assert all("edited meanwhile" in one for one in found)
    assert found[0] != found[1]


# What a declaration holds.


def made(scale: float) -> Callable[[float], float]:
    return lambda value: value * scale


def with_default(scale: float) -> Callable[[float], float]:
    def scaled(value: float, by: float = scale) -> float:
        return value * by

    return scaled


class Scaled:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, value: float) -> float:
        return value * self.scale

    def method(self, value: float) -> float:
        return value * self.scale


def class_of(scale: float) -> type:
    class Model:
        def forward(self, value: float) -> float:
            return value * scale

    return Model


@pytest.mark.parametrize(
    "make",
    [
        made,
        with_default,
        Scaled,
        class_of,
        lambda scale: Scaled(scale).method,
        lambda scale: functools.partial(made, scale),
        lambda scale: functools.partial(made(scale), 1.0),
        lambda scale: {"deep": [made(scale)]},
        lambda scale: functools.partial(map, made(scale)),
        lambda scale: functools.wraps(made)(made(scale)),
    ],
)
def test_a_function_counts_with_what_it_was_made_with(make: Callable[[float], Any]) -> None:
    assert fingerprint(make(1.01)) == fingerprint(make(1.01))
    assert fingerprint(make(1.01)) != fingerprint(make(1.00))
    assert "0x" not in str(fingerprint(make(1.01)))


def test_arrays_and_what_holds_itself_count_too() -> None:
    import numpy as np

    assert fingerprint(np.ones(3)) == fingerprint(np.ones(3)) != fingerprint(np.zeros(3))
    assert fingerprint(np.ones(3)) != fingerprint(np.ones(3, np.float32))
    endless: list[Any] = [1]
    endless.append(endless)
    assert fingerprint(endless) == fingerprint(endless)


# Installed packages.


def install(folder: Path, name: str = "my_wheel") -> Path:
    """A package as an installer leaves it: the list of its files is written last."""
    package = folder / name
    package.mkdir(parents=True)
    rows = []
    for file, text in {"__init__.py": "", "norm.py": "scale = 1.01\n", "kernels.so": "binary"}.items():
        (package / file).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{name}/{file},sha256={digest},{len(text)}")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    time.sleep(AGED)
    (info / "RECORD").write_text("\n".join([*rows, f"{name}-1.0.dist-info/RECORD,,"]))
    return package


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path / "site")
    return install(tmp_path / "site")


def altered(cache: Path) -> dict[str, str]:
    spec_code.altered_files.cache_clear()
    importlib.invalidate_caches()
    return spec_code.altered_files("my_wheel", "my_wheel", cache)


def test_a_package_as_it_was_installed_counts_by_its_version(wheel: Path, tmp_path: Path) -> None:
    assert altered(tmp_path / "cache") == {}
    (wheel / "__pycache__").mkdir()
    (wheel / "__pycache__" / "norm.cpython-311.pyc").write_text("compiled")
    (wheel / "norm.py").touch()
    assert altered(tmp_path / "cache") == {}, "touched, not edited"


@pytest.mark.parametrize("file", ["norm.py", "kernels.so"])
def test_a_file_edited_where_it_is_installed_counts_by_content_though_its_size_and_date_are_kept(
    wheel: Path, tmp_path: Path, file: str
) -> None:
    path = wheel / file
    before = path.stat()
    path.write_text(path.read_text().swapcase().replace("1.01", "1.00"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert list(altered(tmp_path / "cache")) == [f"my_wheel/{file}"]


def test_files_that_came_to_a_package_or_went_from_it_count(wheel: Path, tmp_path: Path) -> None:
    (wheel / "added.py").write_text("scale = 1")
    (wheel / "norm.py").unlink()
    found = altered(tmp_path / "cache")
    assert found.pop("my_wheel/norm.py") == "gone"
    assert list(found) == ["my_wheel/added.py"]


def test_an_editable_checkout_counts_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its list names no file of the package, which lies elsewhere."""
    package = install(tmp_path / "checkout")
    (tmp_path / "site").mkdir()
    shutil.move(tmp_path / "checkout" / "my_wheel-1.0.dist-info", tmp_path / "site")
    (tmp_path / "site" / "my_wheel-1.0.dist-info" / "RECORD").write_text("my_wheel-1.0.dist-info/RECORD,,\n")
    monkeypatch.syspath_prepend(tmp_path / "checkout")
    monkeypatch.syspath_prepend(tmp_path / "site")
    before = altered(tmp_path / "cache")
    assert set(before) == {"my_wheel/__init__.py", "my_wheel/norm.py", "my_wheel/kernels.so"}
    (package / "norm.py").write_text("scale = 1.00\n")
    changed = altered(tmp_path / "cache")
    assert {name for name in before if before[name] != changed[name]} == {"my_wheel/norm.py"}


def test_the_packages_that_convert_are_here_as_installed(tmp_path: Path) -> None:
    """Else every conversion of a machine would be its own, and a check-out of this one would share none."""
    spec_code.altered_files.cache_clear()
    assert spec_code.package_content((), tmp_path) == {}


# litert-torch.


def registry() -> Any:
    pytest.importorskip("litert_torch")
    from harness.stages.litert_torch.imports import import_litert_torch

    import_litert_torch()
    return importlib.import_module("litert_torch.backend.lowerings.registry")


def changed_by(act: Callable[[], Any], undo: Callable[[], Any], spec: Path) -> list[Any]:
    before = replaced.namespaces(spec)
    try:
        act()
        return replaced.changes(before)
    finally:
        undo()
        assert replaced.changes(before) == []


def test_lowerings_decompositions_and_constants_that_a_spec_changes_count(work: Workplace) -> None:
    table = registry().global_registry.registered_ops
    decomp: Any = importlib.import_module("litert_torch.fx_infra.decomp")
    attention: Any = importlib.import_module("litert_torch.generative.layers.attention_utils")
    first, gone = next(iter(table.items())), next(iter(decomp._pre_lower_decomp.items()))
    spec = work.folder / "spec.py"

    def lowered(scale: float) -> list[Any]:
        return changed_by(lambda: table.update({first[0]: made(scale)}), lambda: table.update([first]), spec)

    assert lowered(1.01) == lowered(1.01) != []
    assert lowered(1.01) != lowered(1.00)
    assert changed_by(lambda: table.update({"my::op": made(1.0)}), lambda: table.pop("my::op"), spec)
    table_of = decomp._pre_lower_decomp
    assert changed_by(lambda: table_of.pop(gone[0]), lambda: table_of.__setitem__(*gone), spec)
    own = attention.build_alibi_bias
    for put in (functools.partial(own, 2), attention.build_causal_mask_cache, made(1.01)):
        assert changed_by(
            lambda put=put: setattr(attention, "build_alibi_bias", put),
            lambda: setattr(attention, "build_alibi_bias", own),
            spec,
        )
    assert changed_by(lambda: setattr(attention, "EPS", 1e-3), lambda: delattr(attention, "EPS"), spec)


def test_flags_of_the_converter_count_and_its_talk_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("LITERT", "JAX", "XLA"))]:
        monkeypatch.delenv(name)
    before = replaced.flags()
    monkeypatch.setenv("LITERT_TORCH_SHOW_PROGRESS", "n")
    assert replaced.flags() == before
    found = [before]
    for name, value in (("LAYOUT_OPTIMIZE_PARTITIONER", "MINCUT"), ("LITERT_TORCH_FULL_TFL_DECOMPS", "1")):
        monkeypatch.setenv(name, value)
        found.append(replaced.flags())
    assert len({json.dumps(one, sort_keys=True) for one in found}) == 3
