"""A flatbuffer in the cache counts only as long as what the model read while it was converted is as it was."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from safetensors.numpy import save_file

from harness.jobs.reporter import Silent
from harness.pipeline.conversions import CONVERSIONS, converted
from harness.pipeline.flatbuffers import convert_model
from harness.spec.conversion_reads import READS, Reader, changed_since
from harness.store.cache import Cache
from harness.system.temporary import PREFIX

pytestmark = pytest.mark.slow

KEY = "a" * 40
AGED = 0.05  # seconds after which a file does not count as edited while it was converted


class Conversion:
    """A spec in a folder whose `forward` a converter traces; `made` counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, 0
        self.spec = folder / "spec.py"
        self.cache = Cache(folder / "cache")

    def _trace(self, network: Callable[[], object], file: Path) -> None:
        self.made += 1
        file.write_text(str(network()))

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)
        time.sleep(AGED)

    def convert(self, spec: Path | None = None) -> str:
        file = spec or self.spec

        def build() -> Any:
            loaded = importlib.util.spec_from_file_location("traced", file)
            assert loaded is not None
            assert loaded.loader is not None
            module = importlib.util.module_from_spec(loaded)
            loaded.loader.exec_module(module)
            return module.forward

        return converted(self.cache, KEY, build, self._trace, reader=Reader(file, self.cache)).read_text()


@pytest.fixture
def work(tmp_path: Path) -> Conversion:
    return Conversion(tmp_path)


HERE = "from pathlib import Path\nHERE = Path(__file__).parent\n"
READ = {
    "opened": "open(HERE / 'data.txt').read()",
    "by a package": "__import__('numpy').loadtxt(HERE / 'data.txt')",
    "by a helper": "HERE.joinpath('data.txt').read_text()",
    "through a link": "(HERE / 'link.txt').read_text()",
    "by safetensors": "__import__('safetensors.numpy').numpy.load_file(HERE / 'data.safetensors')",
    "by safetensors for torch": "__import__('safetensors.torch').torch.load_file(HERE / 'data.safetensors')",
    "by torch": "__import__('torch').from_file(str(HERE / 'data.txt'), size=1, dtype=__import__('torch').uint8)",
    "by its number": "__import__('os').read(__import__('os').open(HERE / 'data.txt', 0), 9)",
    "of a folder": "(sorted(HERE.joinpath('tables').iterdir()))[-1].read_text()",
}


@pytest.mark.parametrize("how", READ)
def test_a_file_that_forward_reads_is_read_again_when_it_changed(work: Conversion, how: str) -> None:
    (work.folder / "link.txt").symlink_to("data.txt")
    work.write({"spec.py": f"{HERE}def forward():\n    return {READ[how]}\n", "data.txt": "1", "tables/a.txt": "1"})
    weights = work.folder / "data.safetensors"
    save_file({"scale": np.array([1.0])}, weights)
    time.sleep(AGED)
    first = work.convert()
    assert (work.convert(), work.made) == (first, 1)
    save_file({"scale": np.array([2.0])}, weights)
    work.write({"data.txt": "2", "tables/a.txt": "2"})
    assert work.convert() != first
    assert work.made == 2
    work.convert()
    assert work.made == 2


def test_a_new_file_in_a_folder_that_it_goes_through_counts(work: Conversion) -> None:
    work.write({"spec.py": f"{HERE}def forward():\n    return {READ['of a folder']}\n", "tables/a.txt": "1"})
    assert work.convert() == "1"
    work.write({"tables/b.txt": "2"})
    assert work.convert() == "2"


CHANGES = {
    "where a link leads": ("os.readlink(HERE / 'link.txt')", lambda here: relink(here / "link.txt", "other.txt")),
    "who may run a file": ("os.access(HERE / 'data.txt', os.X_OK)", lambda here: (here / "data.txt").chmod(0o755)),
}


def relink(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target)


@pytest.mark.parametrize("what", CHANGES)
def test_more_than_the_content_of_a_file_counts(work: Conversion, what: str) -> None:
    asked, change = CHANGES[what]
    for name in ("data.txt", "other.txt"):
        (work.folder / name).write_text("1")
    (work.folder / "link.txt").symlink_to("data.txt")
    work.write({"spec.py": f"import os\n{HERE}def forward():\n    return {asked}\n"})
    assert (work.convert(), work.made) == (work.convert(), 1)
    change(work.folder)
    time.sleep(AGED)
    work.convert()
    assert work.made == 2


@pytest.mark.parametrize(
    "asked",
    [
        "os.read(os.open('data.txt', 0, dir_fd=os.open(HERE, os.O_RDONLY)), 9)",
        "__import__('sqlite3').connect(HERE / 'data.db')",
        "__import__('ctypes').CDLL(None)",
    ],
    ids=["by a folder's number", "of a database", "of a library"],
)
def test_what_nobody_can_look_at_again_is_converted_again(work: Conversion, asked: str) -> None:
    work.write({"spec.py": f"import os\n{HERE}def forward():\n    return {asked}\n", "data.txt": "1"})
    work.convert()
    work.convert()
    assert work.made == 2


@pytest.mark.parametrize("ask", ["Path.exists", "__import__('os').path.isfile"])
def test_a_file_that_was_not_there_counts_when_it_comes(work: Conversion, ask: str) -> None:
    work.write({"spec.py": f"{HERE}def forward():\n    return {ask}(HERE / 'override.json')\n"})
    assert (work.convert(), work.convert(), work.made) == ("False", "False", 1)
    work.write({"override.json": "{}"})
    assert work.convert() == "True"


def test_a_helper_that_forward_imports_counts_with_what_it_reads(
    work: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(work.folder)
    text = f"{HERE}def forward():\n    return __import__('importlib').import_module('late_helper').VALUE\n"
    work.write(
        {"spec.py": text, "late_helper.py": f"{HERE}VALUE = (HERE / 'value.txt').read_text()\n", "value.txt": "1"}
    )
    assert (work.convert(), work.convert(), work.made) == ("1", "1", 1)
    for files, value in ({"value.txt": "2"}, "2"), ({"late_helper.py": "VALUE = 3000\n"}, "3000"):
        sys.modules.pop("late_helper")
        work.write(files)
        assert work.convert() == value


def test_a_variable_that_forward_reads_counts_and_one_of_a_package_does_not(
    work: Conversion, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.write({"spec.py": "import os\ndef forward():\n    return os.environ.get('OWN_SCALE')\n"})
    monkeypatch.setattr("harness.spec.rests.STARTED_WITH", os.environ)  # as if each were another run
    assert work.convert() == "None"
    monkeypatch.setenv("TORCH_LOGS", "")
    assert (work.convert(), work.made) == ("None", 1)
    monkeypatch.setenv("OWN_SCALE", "2")
    assert (work.convert(), work.made) == ("2", 2)


def test_what_a_run_sets_for_itself_counts_for_nothing(work: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch asks for a folder of its own below that for temporary files, which is another in each run."""
    asks = "__import__('torch._inductor.runtime.cache_dir_utils', fromlist=['cache_dir']).cache_dir()"
    work.write({"spec.py": f"def forward():\n    return {asks}\n"})
    for run in ("one", "other"):
        temporary = work.folder / f"{PREFIX}run-{run}"
        temporary.mkdir()
        monkeypatch.setenv("TMPDIR", str(temporary))
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        work.convert()
    assert work.made == 1


def test_what_another_program_answered_is_asked_again(work: Conversion) -> None:
    work.write({"spec.py": "import subprocess\ndef forward():\n    return subprocess.check_output(['echo', '1'])\n"})
    work.convert()
    work.convert()
    assert work.made == 2


def test_a_file_written_while_it_was_read_is_read_again(work: Conversion) -> None:
    body = "    file = HERE / 'n.txt'\n    n = file.read_text()\n    file.write_text(n)\n    return n\n"
    text = f"{HERE}def forward():\n{body}"
    work.write({"spec.py": text, "n.txt": "1"})
    work.convert()
    work.convert()
    assert work.made == 2


def test_what_reads_nothing_is_the_same_from_another_folder_and_what_reads_is_not(work: Conversion) -> None:
    """Two clones share conversions, but each has its own tables."""
    for text, made in (
        ("def forward():\n    return 1\n", 1),
        (f"{HERE}def forward():\n    return {READ['opened']}\n", 3),
    ):
        work.cache.remove()
        work.write({"spec.py": text, "data.txt": "1", "other/spec.py": text, "other/data.txt": "2"})
        work.convert()
        work.convert(work.folder / "other" / "spec.py")
        assert work.made == made


def test_an_entry_without_a_note_is_made_again(work: Conversion) -> None:
    work.write({"spec.py": "def forward():\n    return 1\n"})
    work.convert()
    entry = work.cache.entry(CONVERSIONS, KEY)
    assert entry is not None
    assert changed_since(entry, work.spec, work.cache) is None
    for damage in (lambda note: note.unlink(), lambda note: note.write_text("{}")):
        damage(entry / READS)
        assert changed_since(entry, work.spec, work.cache) is not None


def test_a_table_that_was_edited_is_in_the_flatbuffer(tmp_path: Path, prepare: Callable[..., dict[str, Any]]) -> None:
    """Nothing but the traced `forward` reads it, so no key knows of it: a pass on the old flatbuffer would be false."""
    source = (ROOT / "models" / "tiny_llama.py").read_text()
    head, declaration = source.replace("model_class=tiny_llama.TinyLlama", "model_class=Own").split("# https", 1)
    own = (
        "import json\nfrom pathlib import Path\n"
        "class Own(tiny_llama.TinyLlama):\n"
        "    def forward(self, *args, **kwargs):\n"
        "        scale = json.loads((Path(__file__).parent / 'scale.json').read_text())\n"
        "        found = super().forward(*args, **kwargs)\n"
        "        return {**found, 'logits': found['logits'] * scale} if 'logits' in found else found\n"
    )
    spec = tmp_path / "spec.py"
    spec.write_text(f"{head}{own}# https{declaration}")
    cache = {"cache_root": str(tmp_path / "cache")}
    prepared = prepare(spec, miniature=True, layers=1, variant={"prefill": (4,), "kv_cache_len": 16}, **cache)

    def convert_with(scale: float) -> tuple[bool, str]:
        (tmp_path / "scale.json").write_text(str(scale))
        time.sleep(AGED)
        payload = {"prepared": prepared, "spec_file": str(spec), "spec_variable": "TINY_LLAMA", **cache}
        found = convert_model(payload, Silent())
        return found["cached"], found["sha256"]

    first, again, edited = convert_with(1.0), convert_with(1.0), convert_with(1.5)
    assert (first[0], again[0], edited[0]) == (False, True, False)
    assert first[1] == again[1] != edited[1]
