"""Several models in one go: one that fails stops no other, the worst decides, and Ctrl-C ends the whole cleanly."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from record_factory import FAULTY_TAP, HOSTILE, KINDS, make_run
from rich.console import Console

from harness.commands import main as cli
from harness.commands.batch import ModelOutcome, run_each, worst_exit
from harness.errors import UsageError
from harness.pipeline import options as pipeline_options
from harness.pipeline import run as pipeline
from harness.pipeline.options import Options
from harness.record.record import Record, write_record
from harness.render.batch import print_outcomes
from harness.render.index import write_index
from harness.spec.find import describe, main_models, registered
from harness.spec.model import SpecRef

RUN_ID = "20261114-093012-a1b2"
Run = Callable[..., tuple[Path, Record]]


def finished(kind: str, name: str = "") -> tuple[Path, Record]:
    record = make_run(kind)[0]
    return Path("reports") / (name or kind) / RUN_ID, record.model_copy(update={"model": name or kind})


def fake(model: str) -> tuple[Path, Record]:
    """Models are called after what becomes of them."""
    if model in KINDS:
        return finished(model)
    if model == "wrong":
        raise UsageError("no weights for 'wrong'; give --checkpoint")
    if model == "interrupt":
        raise KeyboardInterrupt
    raise ZeroDivisionError("a mistake\nof ours")


def test_a_model_that_fails_crashes_or_cannot_start_stops_no_other() -> None:
    names = ["fail", "wrong", "crash", "broken", "pass"]
    outcomes = list(run_each(names, fake))
    assert [outcome.model for outcome in outcomes] == names
    assert [outcome.exit_code for outcome in outcomes] == [1, 2, 3, 4, 0]
    assert outcomes[1].error == "no weights for 'wrong'; give --checkpoint"
    assert "\n" not in outcomes[3].error
    assert "ZeroDivisionError at test_batch.py:" in outcomes[3].error


def test_ctrl_c_keeps_what_was_done_and_starts_nothing_more() -> None:
    outcomes: list[ModelOutcome] = []
    with pytest.raises(KeyboardInterrupt):
        outcomes.extend(run_each(["pass", "interrupt", "fail"], fake))
    assert [outcome.model for outcome in outcomes] == ["pass"]


@pytest.mark.parametrize(
    ("models", "code"),
    [
        (["pass", "pass"], 0),
        (["pass", "fail"], 1),
        (["fail", "crash", "pass"], 3),
        (["crash", "wrong", "fail"], 2),
        (["broken", "wrong"], 4),
    ],
)
def test_the_exit_code_is_the_worst_and_not_started_is_worse_than_crashed(models: list[str], code: int) -> None:
    assert worst_exit(list(run_each(models, fake))) == code


def test_all_is_the_first_model_of_every_file() -> None:
    mains = main_models()
    files = {ref.file for ref in registered().values()}
    assert {ref.file for ref in mains.values()} == files
    assert list(mains) == [describe(file)[0].name for file in sorted(files)]


def shown(outcomes: list[ModelOutcome], further: int = 0, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_outcomes(outcomes, Path("reports"), further, console)
    return console.file.getvalue()


def test_the_table_names_verdict_hops_first_failing_tap_seconds_and_reports() -> None:
    folder, record = finished("fail", "tiny_llama")
    text = shown(
        [ModelOutcome("tiny_llama", 12.34, record, folder), ModelOutcome("gemma", 0.1, error="no weights; give some")],
        3,
    )
    row = next(line for line in text.splitlines() if line.startswith("tiny_llama"))
    for said in ("FAIL", "reauthored", "330 of 4", "100 %", FAULTY_TAP, "12.3"):
        assert said in row
    assert "tflite-builtin" in text
    assert "gemma was not run: no weights; give some" in text
    assert f"report  {folder / 'report.html'}" in text
    assert "index   reports/index.html" in text
    assert "3 more models" in text
    assert text.splitlines()[-1] == "1 fail, 1 not run, 12.4 s"


def test_a_crashed_stage_and_error_findings_stand_in_the_table() -> None:
    text = shown(
        [ModelOutcome("m", 1.0, *reversed(finished("crash"))), ModelOutcome("n", 1.0, *reversed(finished("hostile")))]
    )
    assert "not compared" in text
    assert "crashed" in text
    assert "1 error" in text
    assert "\x1b" not in text


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`edge-parity run ...` over fake runs that are written to a folder. Returns the exit code."""

    def run(options: Options, _: object) -> tuple[Path, Record]:
        _, record = fake(options.model)
        folder = tmp_path / options.model / RUN_ID
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, record, make_run(options.model)[1])
        return folder, record

    def call(*arguments: str) -> int:
        monkeypatch.setattr(pipeline, "run", run)
        monkeypatch.setattr(pipeline_options, "check", lambda options: None)
        monkeypatch.setattr("signal.signal", lambda *_: None)  # Ctrl-C stays pytest's
        monkeypatch.setattr("os._exit", sys.exit)
        monkeypatch.setattr(sys, "argv", ["edge-parity", "run", *arguments, "--out", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return call


def test_json_of_several_models_is_the_list_of_records_alone(
    commands: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert commands("fail", "wrong", "pass", "--json") == 2
    output = capsys.readouterr()
    assert [record["model"] for record in json.loads(output.out)] == ["fail", "pass"]
    assert "wrong: not run: no weights for 'wrong'; give --checkpoint" in output.err
    assert "Traceback" not in output.err
    index = (tmp_path / "index.html").read_text()
    assert f'href="fail/{RUN_ID}/report.html"' in index
    assert f'href="pass/{RUN_ID}/report.html"' in index


def test_ctrl_c_in_the_middle_says_what_is_kept(
    commands: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert commands("pass", "interrupt", "fail") == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"edge-parity: interrupted; stages ended; 1 of 3 models were done, their runs are in {tmp_path}"
    assert not (tmp_path / "fail").exists()


def test_all_runs_every_file_and_says_how_many_entries_it_left(
    commands: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {name: SpecRef.of("models.py", name) for name in ("pass", "fail")}
    monkeypatch.setattr("harness.spec.find.main_models", lambda: found)
    monkeypatch.setattr("harness.spec.find.registered", lambda: dict.fromkeys("abcde"))
    assert commands("--all") == 1
    output = capsys.readouterr()
    assert "model 2 of 2: fail" in output.err
    assert "3 more models in the same files were not run" in output.out


def test_all_leaves_out_what_needs_an_extra_and_says_so(
    commands: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {name: SpecRef.of("models.py", name) for name in ("pass", "keras")}
    monkeypatch.setattr("harness.spec.find.main_models", lambda: found)
    monkeypatch.setattr("harness.spec.find.not_installed", lambda ref: "make extras" * (ref.variable == "keras"))
    assert commands("--all") == 0
    output = capsys.readouterr()
    assert "keras is left out: make extras" in output.err
    assert "model 1 of 1: pass" in output.err


@pytest.mark.parametrize(("arguments", "says"), [((), "no MODEL named"), (("--all", "pass"), "contradict each other")])
def test_a_command_that_names_no_model_or_contradicts_itself_is_one_line(
    arguments: tuple[str, ...], says: str, commands: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def kept(out: Path, model: str, run_id: str, kind: str) -> Path:
    folder = out / model / run_id
    folder.mkdir(parents=True)
    record, frame = make_run(kind, 3)
    write_record(folder, record.model_copy(update={"run_id": run_id}), frame)
    return folder


def test_the_index_lists_the_newest_run_first_and_holds_no_script_and_no_network(tmp_path: Path) -> None:
    kept(tmp_path, "old", "20261114-093012-a1b2", "pass")
    kept(tmp_path, "new", "20261115-093012-a1b2", "fail")
    page = write_index(tmp_path).read_text()
    assert 0 < page.index('href="new/') < page.index('href="old/')
    assert FAULTY_TAP in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_the_index_escapes_hostile_names_in_texts_and_links(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "%2F").replace("\x00", "")
    kept(tmp_path, name, "20261114-093012-a1b2", "hostile")
    page = write_index(tmp_path).read_text()
    assert "<script" not in page
    assert "alert(&#39;x&#39;)" in page
    assert "\x1b" not in page
    assert 'href="%3C%252Fscript%3E' in page


def test_a_run_that_cannot_be_read_has_a_line_in_the_index(tmp_path: Path) -> None:
    (kept(tmp_path, "damaged", "20261114-093012-a1b2", "pass") / "parity.json").write_text("{")
    kept(tmp_path, "good", "20261115-093012-a1b2", "pass")
    page = write_index(tmp_path).read_text()
    assert "unreadable" in page
    assert "is not a run record" in page
    assert 'href="good/' in page


def test_the_index_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path, "m", "20261114-093012-a1b2", "pass")
    before = write_index(tmp_path).read_text()
    kept(tmp_path, "m", "20261115-093012-a1b2", "pass")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_index(tmp_path)
    assert (tmp_path / "index.html").read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"m", "index.html"}
