"""`edge-parity generate`, and `run --generate`: on a miniature, sound and with a mistake in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ENVIRONMENT, SPEC

from harness.record.generation import Generation
from harness.record.record import Record, read_record

pytestmark = [pytest.mark.slow, pytest.mark.process]


def edge_parity(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.commands.main", *words]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


def test_every_stage_generates_what_the_reference_does(tmp_path: Path) -> None:
    words = ("generate", "tiny_llama", "--miniature", "--tokens", "12", "--quantize", "fp16", "--out", str(tmp_path))
    done = edge_parity(*words, "--json")
    assert done.returncode == 0, done.stderr
    found = Generation.model_validate_json(done.stdout)
    (prompt,) = found.prompts
    stages = {stage.stage: stage for stage in prompt.stages}
    assert list(stages)[:4] == ["hf", "reauthored", "tflite-xnnpack", "tflite-builtin"]
    assert {"fakequant[fp16]", "tflite-xnnpack[fp16]"} <= set(stages)
    assert len(prompt.reference) == len(stages["hf"].tokens) == 12
    assert all(stage.tokens == stages["hf"].tokens for stage in stages.values() if "[" not in stage.stage)
    (folder,) = (tmp_path / "tiny_llama").iterdir()
    assert {file.name for file in folder.iterdir()} >= {"generation.json", "generation.html"}
    assert not (folder / "traces").exists()


def test_a_run_generates_too_and_its_report_says_so(tmp_path: Path) -> None:
    done = edge_parity("run", "tiny_llama", "--miniature", "--generate", "6", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "generated: 3 of 3 texts are the reference's" in " ".join(done.stdout.split())
    (folder,) = (path for path in (tmp_path / "tiny_llama").iterdir() if path.is_dir())
    record = json.loads((folder / "parity.json").read_text())
    assert record["generation"]["tokens"] == 6
    assert "generation.html" in (folder / "report.html").read_text()
    assert (folder / "generation.html").is_file()


def recorded(parent: Path) -> Record:
    (folder,) = (path for path in parent.iterdir() if path.is_dir())
    return read_record(folder)


def test_each_recipe_generates_on_builtin_kernels_and_is_held_against_the_numbers_of_its_file(tmp_path: Path) -> None:
    """Of weights alone, `fakequant-builtin` takes over what `fakequant` computes: its text too."""
    recipes = ("fp16", "weight_only_int8", "dynamic_int8")
    words = ("--quantize", ",".join(recipes), "--stages", "reauthored,tflite-builtin", "--generate", "8")
    done = edge_parity("run", "tiny_llama", "--miniature", *words, "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = recorded(tmp_path / "tiny_llama").generation
    assert found is not None
    assert not found.lost
    (prompt,) = found.prompts
    stages = {stage.stage: stage for stage in prompt.stages}
    for recipe in recipes:
        fake, runs = stages[f"fakequant-builtin[{recipe}]"], stages[f"tflite-builtin[{recipe}]"]
        assert runs.tokens == fake.tokens
        assert {one.against for one in runs.differences} <= {fake.stage}
        assert {one.kind for one in fake.differences} <= {"price"}
    assert stages["fakequant-builtin[weight_only_int8]"].differences, "the price is what a runtime could be blamed for"


# Its driver ends with an error, and its traces are as they should be.
NO_DRIVER = """
def _refuses(*_):
    raise ValueError("no step by step")


driver.ReauthoredDriver.call = _refuses
TINY_LLAMA = GenerativeModel("""


def test_a_stage_that_ends_badly_while_it_generates_is_exit_code_3_and_named(tmp_path: Path) -> None:
    spec = tmp_path / "no_driver.py"
    spec.write_text(
        "from harness.stages.litert_torch import driver\n" + SPEC.replace("TINY_LLAMA = GenerativeModel(", NO_DRIVER)
    )
    words = ("--miniature", "--generate", "2", "--stages", "reauthored", "--out", str(tmp_path / "out"))
    done = edge_parity("run", str(spec), *words)
    assert done.returncode == 3, done.stdout + done.stderr
    (model,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    record = recorded(model)
    assert (record.verdict, record.exit_code) == ("fail", 3)
    (finding,) = (one for one in record.findings if one.severity == "error")
    assert finding.what.startswith("reauthored generated nothing: the process reauthored.generate crashed: ValueError")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tokens", "0"), "--tokens 0 must be positive; give e.g. --tokens 64"),
        (("--chat",), "--chat puts a prompt into the chat template; add --prompt TEXT, or leave it out"),
        (("--prompt", "hello"), "--prompt needs a tokenizer and there is none with these weights"),
    ],
)
def test_bad_input_is_a_line(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = edge_parity("generate", "tiny_llama", "--miniature", "--out", str(tmp_path), *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# The re-authored model turns queries and keys by other angles.
OTHER_ANGLES = """
def _other_angles():
    config = tiny_llama.get_model_config()
    config.block_config(0).attn_config.rotary_base = 100
    return config


TINY_LLAMA = GenerativeModel("""


def test_a_mistake_in_the_re_authored_model_is_a_fault_there_and_inherited_by_its_files(tmp_path: Path) -> None:
    spec = tmp_path / "other_angles.py"
    spec.write_text(
        SPEC.replace("TINY_LLAMA = GenerativeModel(", OTHER_ANGLES).replace(
            "config=tiny_llama.get_model_config", "config=_other_angles"
        )
    )
    done = edge_parity("generate", str(spec), "--miniature", "--tokens", "24", "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 1, done.stderr
    (prompt,) = Generation.model_validate_json(done.stdout).prompts
    stages = {stage.stage: stage for stage in prompt.stages}
    faults = stages["reauthored"].faults
    assert faults
    assert {fault.against for fault in faults} == {"hf"}
    for file in ("tflite-xnnpack", "tflite-builtin"):
        assert {one.kind for one in stages[file].differences} == {"inherited"}
        assert stages[file].tokens == stages["reauthored"].tokens, "its own way is the re-authored model's"
