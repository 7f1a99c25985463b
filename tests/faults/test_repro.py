"""The folder that `explain --repro` writes shows the fault with nothing of this project, and not once it is fixed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from explaining import explain_flatbuffer, explain_reauthored
from marks import further_but
from mistakes import CODE, CONSTANTS, FUNCTIONS, WEIGHTS, network
from places import jiggle
from record_factory import make_run
from watching import Watcher

from harness.bench.breaking import Change, loading, unchanged
from harness.bench.workbench import bench
from harness.errors import UsageError
from harness.explain.pack import pack
from harness.explain.repro import write_repro
from harness.jobs.reporter import Silent
from harness.jobs.session import Given

pytestmark = pytest.mark.slow


def shown(evidence: Path, folder: Path, change: Change = unchanged) -> tuple[int, str]:
    """(exit code, output) of the script that a fault's evidence makes, in a process that imports NumPy, torch or
    ai-edge-litert and nothing of this project. change: what is done to the re-authored network that it is cut from."""
    folder.mkdir()
    payload = {"evidence": str(evidence), "target": str(folder)}
    script = Path(write_repro(payload, Silent(), Given(load=loading(change)))["script"])
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3e6, "small enough to send"
    assert len(script.read_text().splitlines()) <= 30
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", str(script)],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"harness", "litert_torch", "transformers"}
    assert done.stdout.count("\n") == 1, done.stderr[-2000:]
    return done.returncode, done.stdout


# What is done to the loaded network, within what it runs, and the tap where that shows.
PIECES: dict[str, tuple[Change, Any, str]] = {
    "a norm": (CODE["norm_eps"][0], nullcontext, "block.1.attn.norm"),
    "an activation": (CODE["activation gelu"][0], nullcontext, "block.1.mlp.act"),
    "a matrix": (WEIGHTS["weight_differs"][0], nullcontext, "block.1.mlp.out"),
    "keys": (WEIGHTS["head_permutation"][0], nullcontext, "block.1.attn.k"),
    "a residual": (CODE["residual_missing"][0], nullcontext, "block.1.out"),
    "queries": (unchanged, FUNCTIONS["interleaved rope"][0], "block.0.attn.q_rope"),
    "probabilities": (unchanged, FUNCTIONS["attention scale"][0], "block.0.attn.probs"),
    "a context": (unchanged, FUNCTIONS["values alone"][0], "block.0.attn.context"),
    "the last norm": (network("weights/final-norm-ones"), nullcontext, "final_norm"),
    "the head": (jiggle(lambda n: n.lm_head), nullcontext, "logits"),
    "the embedding": (jiggle(lambda n: n.tok_embedding), nullcontext, "embed"),
}


SOME_CONSTANTS = ["a bit of q, k, v", "a bit of a norm", "of block 0"]
SOME = ["a norm", "a matrix", "queries", "probabilities", "the head"]


@pytest.mark.parametrize("what", further_but(["a norm", "the head"], SOME, PIECES))
def test_the_script_of_a_pytorch_fault_shows_it_and_is_silent_once_it_is_fixed(what: str, tmp_path: Path) -> None:
    change, around, tap = PIECES[what]
    model = bench("tiny_llama")
    assert model.sound, "before anything is broken"
    with around():
        assert explain_reauthored(model, change, keep=tmp_path / "evidence").fault.tap == tap
        code, said = shown(tmp_path / "evidence", tmp_path / "broken", change)
    assert code == 1
    assert "the fault shows" in said
    code, said = shown(tmp_path / "evidence", tmp_path / "fixed")
    assert code == 0, said
    assert "the fault is gone" in said


@pytest.mark.parametrize("what", further_but(SOME_CONSTANTS[:1], SOME_CONSTANTS, CONSTANTS))
@pytest.mark.parametrize("stage", ["tflite-xnnpack", "tflite-builtin"])
def test_the_script_of_a_flatbuffer_fault_shows_it_and_is_silent_once_it_is_fixed(
    what: str, stage: str, tmp_path: Path
) -> None:
    change, _ = CONSTANTS[what]
    model = bench("tiny_llama")
    found = explain_flatbuffer(model, lambda file: change(model, file), stage, keep=tmp_path / "evidence")
    assert found.fault.hop == f"reauthored->{stage}"
    code, said = shown(tmp_path / "evidence", tmp_path / "broken")
    assert code == 1, said
    shutil.copyfile(model.flatbuffer, tmp_path / "evidence" / "broken.tflite")
    code, said = shown(tmp_path / "evidence", tmp_path / "fixed")
    assert code == 0, said


@pytest.mark.parametrize(
    ("kind", "taken", "says"),
    [
        ("pass", False, "leave --repro out"),
        ("fail", False, "holds no evidence"),
        ("fail", True, "give a new folder"),
    ],
)
def test_a_repro_that_cannot_be_is_refused_with_the_remedy(kind: str, taken: bool, says: str, tmp_path: Path) -> None:
    record = make_run(kind)[0]
    run, target = tmp_path / "run", tmp_path / "repro"
    run.mkdir()
    if taken:
        (run / "evidence").mkdir()
        (run / "evidence" / "0.npz").write_bytes(b"")
        target.mkdir()
        (target / "mine.txt").write_text("")
    with pytest.raises(UsageError, match=says):
        pack(run, record, target, Watcher())
    assert target.exists() == taken
