"""What was prepared is recalled as long as all that it rests on is as it was, and no longer."""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from harness.spec import rests
from harness.spec.code import SpecCode
from harness.spec.rests import Rests, rests_of, told
from harness.spec.witness import Seen

LIBC = ctypes.CDLL(None)
AGED = 0.05  # seconds after which a file does not count as written while it was read


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, left alone for long enough."""
    monkeypatch.setattr(rests, "MARGIN", 0)
    monkeypatch.setattr(rests, "loaded_files", list)
    monkeypatch.setattr(rests, "converting_files", list)
    for name in ("config.json", "tokenizer.json", "shards/one.json"):
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"eps": 1e-05}')
    time.sleep(AGED)
    return tmp_path / "model"


def seen_by(work: Callable[[], Any], folder: Path, code: SpecCode | None = None) -> Rests | None:
    seen, since = Seen(), time.time_ns()
    with seen.watching():
        work()
    found = rests_of(seen, code or SpecCode({}, frozenset()), since, folder.parent / "cache")
    return None if found is None else Rests.model_validate(json.loads(json.dumps(told(found))))


def rest(work: Callable[[], Any], folder: Path) -> Rests:
    found = seen_by(work, folder)
    assert found is not None
    assert found.changed() is None
    return found


def keep_size_and_date(path: Path) -> None:
    before = path.stat()
    path.write_text(path.read_text().replace("1e-05", "1e-06"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def open_in_c(path: Path) -> None:
    """As a tokenizer or safetensors does: asked for in Python, opened by code that tells nobody."""
    assert os.path.isfile(path)
    LIBC.close(LIBC.open(os.fsencode(path), os.O_RDONLY))


READS: dict[str, Callable[[Path], Any]] = {
    "open": lambda path: path.open().close(),
    "os.open": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "read_bytes": lambda path: path.read_bytes(),
    "read and write": lambda path: path.open("r+").close(),
    "in C": open_in_c,
    "asked for alone": lambda path: path.exists(),
    "asked for its size": os.path.getsize,
}


@pytest.mark.parametrize("how", READS)
def test_a_file_that_was_read_may_not_change_though_its_size_and_date_are_kept(folder: Path, how: str) -> None:
    found = rest(lambda: READS[how](folder / "config.json"), folder)
    keep_size_and_date(folder / "tokenizer.json")
    assert found.changed() is None, "nobody read it"
    keep_size_and_date(folder / "config.json")
    assert found.changed() == str(folder / "config.json")


def test_a_file_that_was_read_may_not_go_or_be_another(folder: Path) -> None:
    found = rest(lambda: READS["open"](folder / "config.json"), folder)
    (folder / "config.json").rename(folder / "old.json")
    assert found.changed() == str(folder / "config.json")


@pytest.mark.parametrize(
    "ask", [Path.exists, Path.is_file, os.path.isdir, lambda path: os.access(path, os.R_OK), lambda path: _try(path)]
)
def test_a_file_that_was_looked_for_in_vain_may_not_come(folder: Path, ask: Callable[[Path], Any]) -> None:
    path = folder / "generation_config.json"
    found = rest(lambda: ask(path), folder)
    (folder / "another.json").touch()
    assert found.changed() is None
    path.touch()
    assert found.changed() == str(path)


def _try(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        path.read_text()


@pytest.mark.parametrize("listed", [os.listdir, lambda path: list(os.scandir(path)), lambda path: list(path.iterdir())])
def test_a_folder_that_was_listed_may_have_no_other_files(folder: Path, listed: Callable[[Path], Any]) -> None:
    found = rest(lambda: listed(folder), folder)
    (folder / "shards" / "two.json").touch()
    assert found.changed() is None, "that folder was not listed"
    (folder / "adapter_config.json").touch()
    assert found.changed() == str(folder)


def test_a_variable_that_was_read_may_not_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_MODEL", raising=False)
    found = rest(lambda: os.environ.get("MY_MODEL"), folder)
    monkeypatch.setenv("MY_OTHER", "1")
    assert found.changed() is None
    monkeypatch.setenv("MY_MODEL", "elsewhere")
    assert "MY_MODEL" in str(found.changed())


def test_the_working_directory_counts_where_a_path_depended_on_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    free = rest(lambda: READS["open"](folder / "config.json"), folder)
    bound = rest(lambda: READS["open"](Path("config.json")), folder)
    monkeypatch.chdir(folder.parent)
    assert free.changed() is None
    assert bound.changed() == "the working directory"


def test_what_is_written_meanwhile_is_not_remembered(folder: Path) -> None:
    def read_and_edit() -> None:
        (folder / "config.json").read_text()
        (folder / "config.json").write_text("{}")

    assert seen_by(read_and_edit, folder) is None


@pytest.mark.parametrize(
    "code",
    [
        SpecCode({}, frozenset({"safetensors"})),
        SpecCode({}, frozenset({"torch"}), frozenset({"subprocess"})),
        SpecCode({}, frozenset(), frozenset({"datetime"})),
    ],
)
def test_where_a_spec_may_read_unheard_nothing_is_remembered(folder: Path, code: SpecCode) -> None:
    assert seen_by(lambda: None, folder, code) is None
    heard_of = SpecCode({}, frozenset({"torch", "transformers"}), frozenset({"json", "pathlib"}))
    assert seen_by(lambda: None, folder, heard_of) is not None


@pytest.mark.process
def test_another_program_leaves_no_trace_so_nothing_is_remembered(folder: Path) -> None:
    assert seen_by(lambda: os.system("true"), folder) is None


def test_nobody_listens_when_nothing_is_prepared() -> None:
    ask, read = os.stat, type(os.environ).__getitem__
    seen = Seen()
    with seen.watching():
        assert os.stat is not ask
    assert os.stat is ask
    assert type(os.environ).__getitem__ is read
    Path("/nowhere").exists()
    assert vars(seen) == vars(Seen())


@pytest.mark.slow
def test_a_published_config_that_is_edited_on_disk_is_read_again(
    tmp_path: Path, prepare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`published=` reads a folder: its epsilon is edited, and what was prepared before is not taken for known."""
    from harness.jobs.prepared import Prepared, Request
    from harness.jobs.results import Preparation
    from harness.pipeline.prepared_cache import recall, recall_key, remember
    from harness.store.cache import Cache

    source = (ROOT / "models" / "tiny_llama.py").read_text()
    space: dict[str, Any] = {}
    exec(compile(source, "tiny_llama", "exec"), space)
    space["TINY_LLAMA"].published().save_pretrained(tmp_path / "published")
    spec = tmp_path / "spec.py"
    spec.write_text(
        f"from dataclasses import replace\nfrom transformers import AutoConfig\n{source}\n"
        f"OWN = replace(TINY_LLAMA, published=lambda: AutoConfig.from_pretrained({str(tmp_path / 'published')!r}))\n"
    )
    time.sleep(2.1)
    # This process has loaded modules that other tests have written; a run's own process loads what was there before it.
    monkeypatch.setattr("harness.spec.rests.IMPORTED_AT", time.time_ns())
    cache = Cache.standard()
    asked = Request(spec_file=str(spec), spec_variable="OWN", miniature=True, cache_root=str(cache.root))
    key = recall_key(asked)

    def prepared_now() -> None:
        answer = prepare(f"{spec}:OWN", miniature=True, rests=True)
        found = Preparation.model_validate(answer).rests
        assert found is not None
        assert str(tmp_path / "published" / "config.json") in found.files
        remember(cache, key, Prepared.model_validate(answer), [found])

    prepared_now()
    assert recall(cache, key) is not None
    began = time.monotonic()
    assert recall(cache, key) is not None
    print(f"recalled in {time.monotonic() - began:.3f} s")
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    (tmp_path / "published" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert recall(cache, key) is None
    cache.remove("prepared", key)
