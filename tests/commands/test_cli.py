"""The command line is quick where it can be, prints JSON where it is asked to, and shows a run that is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from record_factory import FAULTY_TAP, make_run

from harness.commands import main as cli
from harness.record.record import write_record

HEAVY = ("torch", "tensorflow", "transformers", "litert_torch", "ai_edge_litert", "numpy", "pandas", "numba", "pyarrow")

# Runs a command as a process does, then says on stderr which heavy packages it imported.
WATCHED = """
import sys
from harness.commands import main as cli
try:
    cli.main()
finally:
    print([name for name in sys.argv.pop().split(",") if name in sys.modules], file=sys.stderr)
"""


def command(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "harness.commands.main", *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.process
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list"], ["list", "--json"]], ids=" ".join)
def test_looking_around_imports_nothing_heavy(arguments: list[str]) -> None:
    probe = f"import sys; sys.argv[1:] = {arguments!r}\n" + WATCHED.replace("sys.argv.pop()", repr(",".join(HEAVY)))
    ended = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert ended.stdout
    assert ended.stderr.strip() == "[]"


@pytest.mark.process
def test_no_command_shows_what_there_is() -> None:
    ended = command()
    assert ended.returncode == 0
    assert all(name in ended.stdout for name in ("run", "explain", "report", "diff", "doctor", "list"))


@pytest.mark.process
def test_list_names_models_and_their_weights() -> None:
    listed = {entry["name"]: entry for entry in json.loads(command("list", "--json").stdout)}
    assert {"smollm2", "tiny_llama"} <= listed.keys()
    assert listed["tiny_llama"]["here"] is True


@pytest.mark.process
def test_doctor_is_json_and_nothing_else() -> None:
    ended = command("doctor", "--json")
    assert ended.returncode in (0, 1)
    assert json.loads(ended.stdout)
    assert ended.stderr == ""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a run that passes and, later, one that fails."""
    for kind, run_id in (("pass", "20261114-093012-a1b2"), ("fail", "20261115-093012-c3d4")):
        record, frame = make_run(kind)
        folder = tmp_path / record.model / run_id
        folder.mkdir(parents=True)
        write_record(folder, record.model_copy(update={"run_id": run_id}), frame)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What a command prints, on one line: a table may break names where the console ends."""
    monkeypatch.setattr(sys, "argv", ["edge-parity", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Ctrl-C stays pytest's
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    output = capsys.readouterr()
    assert output.err == ""
    return " ".join(output.out.split())


def test_explain_names_the_first_fault_of_the_latest_run(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(capsys, monkeypatch, "explain", "latest", "--out", str(runs))
    assert FAULTY_TAP in text
    assert "weight_bfloat16" in text


def test_report_renders_again_and_says_where(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs / "smollm2" / "20261114-093012-a1b2"
    text = shown(capsys, monkeypatch, "report", str(folder))
    for name in ("report.html", "junit.xml"):
        assert str(folder / name) in text
        assert (folder / name).is_file()


def test_diff_says_what_changed(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = str(runs / "smollm2" / "20261114-093012-a1b2")
    text = shown(capsys, monkeypatch, "diff", good, "smollm2@latest", "--out", str(runs))
    assert FAULTY_TAP in text
    assert "pass -> fail" in text


@pytest.mark.further
def test_json_is_the_record_of_each_model_and_nothing_else(tmp_path: Path) -> None:
    spec = str(ROOT / "models" / "tiny_llama.py")
    few = tmp_path / "few.jsonl"
    few.write_text('{"tokens": [5, 6, 7], "id": "three"}\n')
    asked = ("--json", "--stages", "reauthored", "--inputs", str(few), "--out", str(tmp_path))
    ended = command("run", "tiny_llama", spec, *asked)
    assert ended.returncode == 0, ended.stderr
    records = json.loads(ended.stdout)
    assert [record["verdict"] for record in records] == ["pass", "pass"]
    for record in records:
        written = tmp_path / "tiny_llama" / record["run_id"] / "parity.json"
        assert json.loads(written.read_text()) == record
    assert records[0]["run_id"] != records[1]["run_id"]


@pytest.mark.further
def test_a_run_annotates_each_model_and_adds_to_the_job_s_summary(tmp_path: Path) -> None:
    step, few = tmp_path / "step.md", tmp_path / "few.jsonl"
    few.write_text('{"tokens": [5, 6, 7], "id": "three"}\n')
    words = [
        sys.executable,
        "-m",
        "harness.commands.main",
        "run",
        "tiny_llama",
        "gemma1",
        "--miniature",
        "--github",
        "--inputs",
        str(few),
    ]
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(step)}
    ended = subprocess.run(
        [*words, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment
    )
    assert ended.returncode == 1
    commands = [line for line in ended.stdout.splitlines() if line.startswith("::")]
    assert commands[0].startswith("::notice file=models/tiny_llama.py,title=tiny_llama%3A parity::")
    fault = "::error file=models/gemma1.py,title=gemma1%3A parity::TFLite on builtin kernels: reauthored->"
    assert any(line.startswith(fault) for line in commands)
    assert [line for line in step.read_text().splitlines() if line.startswith("## ")] == [
        "## PASS tiny\\_llama",
        "## FAIL gemma1",
    ]
    assert len(list(tmp_path.glob("*/*/summary.md"))) == 2
