"""Run folders come from anybody: what they name is run only if it ran here as it is now, or the user names it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from record_factory import make_run
from watching import Watcher

from harness.errors import UsageError
from harness.explain.pack import pack
from harness.explain.repro import write_repro
from harness.explore.op_level import op_view
from harness.jobs.reporter import Silent
from harness.pipeline.run_models import RunModels, load_models
from harness.record.record import write_record
from harness.spec.find import MODELS_FOLDER
from harness.spec.trust import check_trusted, mark_run, spec_to_run
from harness.store.cache import Cache

TINY_LLAMA = MODELS_FOLDER / "tiny_llama.py"
ATTACK = (
    "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\nfrom models.tiny_llama import TINY_LLAMA as MY\n"
)
PREPARED = {
    "model": "m", "source": {"kind": "miniature", "name": "m"}, "checkpoint": "/", "miniature": True, "points": [],
    "dimensions": {"blocks": 1, "heads": 1, "kv_heads": 1, "head_dim": 1, "hidden": 1, "vocab": 1}, "taps": [],
    "modules": {}, "inputs": [], "schedules": {}, "prefill": [8], "kv_cache_len": 16, "variant": {}, "coverage": {},
    "conversion_key": "", "findings": [],
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("EDGE_PARITY_CACHE", str(tmp_path / "cache"))
    return Cache.standard()


@pytest.fixture
def attack(tmp_path: Path) -> Path:
    file = tmp_path / "spec.py"
    file.write_text(ATTACK)
    return file


def a_run(folder: Path, spec: Path, kind: str = "fail", **models: object) -> Path:
    """A run folder that names a declaration and a flatbuffer, as a stranger would send it."""
    run = folder / "run"
    (run / "explorer").mkdir(parents=True)
    (run / "evidence").mkdir()
    record, frame = make_run(kind)
    write_record(run, record, frame)
    named = {"prepared": PREPARED, "spec_file": str(spec), "spec_variable": "MY", **models}
    (run / "explorer" / "models.json").write_text(json.dumps(named))
    fault = {
        "hop": record.first_fault.hop,
        "tap": "block.0.out",
        "input": "i",
        "worst": 0,
        "read": [],
        "entering": None,
    }
    (run / "evidence" / "0.json").write_text(json.dumps(fault))
    arrays = {name: np.zeros(1) for name in ("expected", "positions", "norms", "noise", "accumulated")}
    np.savez(run / "evidence" / "0.npz", **arrays)
    (run / "evidence" / "run.json").write_text(json.dumps(named | {"flatbuffer": str(spec), "plan": str(spec)}))
    return run


def test_a_declaration_that_a_run_folder_names_is_not_run_by_explore(attack: Path, tmp_path: Path) -> None:
    run = a_run(tmp_path, attack, spec_named=True)
    record, frame = make_run("fail")
    with pytest.raises(UsageError, match=r"spec\.py, the declaration that this run folder names.*--spec FILE"):
        op_view(run, record, frame, record.hops[0], Watcher())
    assert not attack.with_name("ran").exists()


def test_nor_by_a_repro_and_neither_is_a_flatbuffer(attack: Path, tmp_path: Path) -> None:
    run = a_run(tmp_path, attack)
    with pytest.raises(UsageError, match=r"spec\.py, the declaration that this run folder names.*--spec FILE"):
        pack(run, make_run("fail")[0], tmp_path / "repro", Watcher())
    run = a_run(tmp_path / "other", attack, "kernel")
    with pytest.raises(UsageError, match=r"spec\.py, the flatbuffer that this run folder names.*--tflite FILE"):
        pack(run, make_run("kernel")[0], tmp_path / "repro", Watcher())
    assert not attack.with_name("ran").exists()
    assert not (tmp_path / "repro").exists()


@pytest.mark.parametrize("change", [{"tap": 'block"; import os #'}, {"hop": 'a->b{}"""'}, {"tap": ["block.0.out"]}])
def test_no_word_of_a_run_folder_becomes_code_of_a_script(change: dict, attack: Path, tmp_path: Path) -> None:
    evidence = a_run(tmp_path, attack) / "evidence"
    about = json.loads((evidence / "0.json").read_text())
    (evidence / "0.json").write_text(json.dumps(about | change))
    (tmp_path / "target").mkdir()
    with pytest.raises(UsageError, match="which is not a name"):
        write_repro({"evidence": str(evidence), "target": str(tmp_path / "target")}, Silent())
    assert list((tmp_path / "target").iterdir()) == []


def test_what_ran_here_may_run_again_as_it_is_and_where_it_is(attack: Path, cache: Cache, tmp_path: Path) -> None:
    mark_run(cache, attack)
    assert spec_to_run(None, str(attack), "MY").file == attack
    copy = tmp_path / "copy.py"
    copy.write_text(ATTACK)
    with pytest.raises(UsageError, match="was not run on this machine as it is now"):
        spec_to_run(None, str(copy), "MY")
    attack.write_text(ATTACK + "#")
    with pytest.raises(UsageError, match="was not run on this machine as it is now"):
        spec_to_run(None, str(attack), "MY")
    mark_run(cache, attack)
    assert spec_to_run(None, str(attack), "MY").variable == "MY"


def test_a_flatbuffer_that_was_replaced_is_another_one(cache: Cache, tmp_path: Path) -> None:
    file, other = tmp_path / "m.tflite", tmp_path / "other"
    file.write_bytes(b"one")
    mark_run(cache, file)
    check_trusted(file, "the flatbuffer", "")
    other.write_bytes(b"two")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    with pytest.raises(UsageError, match="the flatbuffer"):
        check_trusted(file, "the flatbuffer", "")


def test_what_is_registered_or_made_here_or_named_by_the_user_may_run(tmp_path: Path, cache: Cache) -> None:
    assert spec_to_run(None, str(TINY_LLAMA), "TINY_LLAMA").file == TINY_LLAMA
    (cache.root / "flatbuffer").mkdir(parents=True)
    made = cache.root / "flatbuffer" / "m.tflite"
    made.write_bytes(b"x")
    check_trusted(made, "the flatbuffer", "")
    assert spec_to_run("tiny_llama", "/stranger.py", "X").file == TINY_LLAMA
    named = load_models(a_run(tmp_path, tmp_path / "gone.py")).with_spec("tiny_llama")
    named.check_sources()
    assert (named.spec_file, named.spec_variable) == (str(TINY_LLAMA), "TINY_LLAMA")


def test_a_link_into_the_registered_models_leads_where_it_leads(attack: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was not run"):
        spec_to_run(None, str(MODELS_FOLDER / ".." / os.path.relpath(attack, MODELS_FOLDER.parent)), "MY")
    assert RunModels.model_validate({"prepared": PREPARED, "spec_file": "a", "spec_variable": "b"}).spec_named is False
