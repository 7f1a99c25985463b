"""Whatever happens is one line and an exit code: what nobody foresaw has one of its own.

Limits of the system, paths that are no text, and standard streams that are closed, full or unread.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from paths import ROOT
from record_factory import make_run

from harness.commands import exits
from harness.errors import UsageError
from harness.record.record import write_record
from harness.render.index import write_index
from harness.store.run_folder import working_folder


def fresh(
    arguments: list[str | bytes],
    folder: Path,
    code: str = "from harness.commands import main as cli; cli.main()",
    **more: object,
) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code, *arguments]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run(words, cwd=folder, env=environment, timeout=120, check=False, **settings)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_record(folder, *make_run("fail"))
    return folder


# --- what nobody foresaw ---


BROKEN = """
import sys
from harness.commands import main as cli
from harness.record import runs
def find_run(*_):
    raise {error}
runs.find_run = find_run
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("error", ["KeyError('tokens')", "AssertionError", "RecursionError('too\\ndeep')"])
def test_what_nobody_foresaw_is_one_line_and_neither_pass_nor_fail(error: str, tmp_path: Path) -> None:
    ended = fresh(["explain", "latest"], tmp_path, BROKEN.replace("{error}", error))
    (said,) = ended.stderr.decode().splitlines()
    assert ended.returncode == exits.FAULT == 4
    assert said.startswith(f"edge-parity: a fault of Edge Parity itself: {error.split('(')[0]} at <string>:6")
    assert said.endswith("--debug shows its traceback")
    assert ended.stdout == b""


@pytest.mark.slow
def test_debug_shows_the_traceback_and_keeps_the_exit_code(tmp_path: Path) -> None:
    ended = fresh(["explain", "latest", "--debug"], tmp_path, BROKEN.replace("{error}", "KeyError('\\x1b[2J')"))
    said = ended.stderr.decode().splitlines()
    assert ended.returncode == 4
    assert said[0] == "Traceback (most recent call last):"
    assert said[-1].startswith("edge-parity: a fault")
    assert "\x1b" not in ended.stderr.decode()


def test_a_run_that_breaks_off_leaves_its_log_with_the_traceback_and_nothing_else(tmp_path: Path) -> None:
    def broken_run() -> None:
        with working_folder(tmp_path / "m", "id") as folder:
            (folder / "run.log").write_text("what a stage said\n")
            raise KeyError("tokens")

    with pytest.raises(KeyError) as broken:
        broken_run()
    (left,) = (tmp_path / "m").iterdir()
    assert left.read_text().startswith("what a stage said\n")
    assert "KeyError: 'tokens'" in left.read_text()
    line, code = exits.explained(broken.value)
    assert line.endswith(f"{left} has its traceback")
    assert code == 4


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("'x' is not an integer", "'x' is not an integer. See 'edge-parity --help'."),
        ("No such option: --x.", "No such option: --x. See 'edge-parity --help'."),
        ("Did you mean --out? ", "Did you mean --out? See 'edge-parity --help'."),
        ("give one of (a, b)", "give one of (a, b). See 'edge-parity --help'."),
    ],
)
def test_what_was_typed_wrong_is_a_sentence_of_its_own(message: str, says: str) -> None:
    assert exits.explained(click.UsageError(message)) == (says, 2)


def test_bad_input_leaves_no_log(tmp_path: Path) -> None:
    with pytest.raises(UsageError), working_folder(tmp_path / "m", "id"):
        raise UsageError("no")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", sorted(exits.REMEDIES))
def test_what_the_system_refuses_names_the_file_and_a_remedy(number: int) -> None:
    said, code = exits.explained(OSError(number, "", "/a/b"))
    assert said.startswith(f"/a/b: {os.strerror(number)}; ")
    assert code == 2


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_one_line(run: Path) -> None:
    (run / "report.html").write_text("before")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # noqa: E731
    ended = fresh(["report", str(run)], run.parent, preexec_fn=limit)
    (said,) = ended.stderr.decode().splitlines()
    assert ended.returncode == 2
    assert "File too large" in said
    assert "ulimit -f" in said
    assert (run / "report.html").read_text() == "before"


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "writes"), [(resource.RLIM_INFINITY, True), (100_000, False)])
def test_under_a_limit_on_the_size_of_files_no_compiled_code_is_written(
    limit: int, writes: bool, tmp_path: Path
) -> None:
    """A .pyc that is cut short there would break every later command."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(
        [sys.executable, "-c", "import harness.compare.runs"],
        check=True,
        env=environment | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert any(tmp_path.rglob("runs.*.pyc")) is writes


@pytest.mark.slow
@pytest.mark.parametrize("name", [b"\xff.jsonl", b"a\xc3"])
def test_a_path_that_is_no_text_is_refused(name: bytes, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(name)).write_text('{"tokens": [1]}')
    ended = fresh(["run", "tiny_llama", "--inputs", name], tmp_path)
    (said,) = ended.stderr.decode().splitlines()
    assert ended.returncode == 2
    assert "is not UTF-8; rename" in said


@pytest.mark.slow
def test_a_folder_that_is_no_text_is_refused_and_one_in_another_script_is_not(run: Path) -> None:
    odd, other = run.parent / os.fsdecode(b"\xfe"), run.parent / "модель"
    odd.mkdir()
    other.mkdir()
    assert b"the folder this was started in" in fresh(["explain", str(run)], odd).stderr
    assert fresh(["explain", str(run)], other).returncode == 0


@pytest.mark.slow
def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    gone = f"import os; os.chdir({str(tmp_path)!r}); os.rmdir({str(tmp_path)!r})"
    code = f"{gone}\nfrom harness.commands.main import main; main()"
    ended = fresh(["explain", "latest"], ROOT, code)
    assert ended.returncode == 2
    assert b"is gone; go to one that is there" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--inputs", "--tolerances", "--tflite", "--checkpoint", "--out"])
def test_names_of_300_characters_are_one_line(option: str, tmp_path: Path) -> None:
    ended = fresh(["run", "tiny_llama", option, "n" * 300], tmp_path)
    (said,) = ended.stderr.decode().splitlines()
    assert ended.returncode == 2
    assert "File name too long" in said or "no such folder" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_beside_the_runs_that_is_no_text_costs_the_list_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "20261114-093012-a1b2"
    folder.mkdir(parents=True)
    write_record(folder, *make_run("pass"))
    shutil.copytree(tmp_path / "m", tmp_path / os.fsdecode(b"\xff"))
    page = write_index(tmp_path).read_text(encoding="utf-8")
    assert "%FF/20261114-093012-a1b2/report.html" in page
    assert "m/20261114-093012-a1b2/report.html" in page


# --- standard streams ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["explain", "run"], ["diff", "run", "run"], ["list", "--json"], ["run", "--help"]]
)
def test_a_reader_that_goes_away_changes_no_exit_code(arguments: list[str], run: Path) -> None:
    end, start = os.pipe()
    os.close(end)
    ended = fresh(arguments, run.parent, stdout=start)
    os.close(start)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.slow
def test_a_full_disk_behind_stdout_is_said(run: Path) -> None:
    with open("/dev/full", "wb") as full:
        ended = fresh(["explain", "run"], run.parent, stdout=full)
    assert ended.returncode == 2
    assert b"No space left on device" in ended.stderr


@pytest.mark.slow
def test_closed_streams_and_a_terminal_without_unicode_do_no_harm(run: Path) -> None:
    close = lambda: [os.close(number) for number in (0, 1, 2)]  # noqa: E731
    assert fresh(["report", "run"], run.parent, stdout=None, stderr=None, preexec_fn=close).returncode == 0
    assert (run / "report.html").stat().st_size > 1000
    poor = "import os, sys; os.environ['PYTHONIOENCODING'] = 'ascii'; os.execv(sys.executable, [sys.executable, *W])"
    words = ["-c", "from harness.commands import main as cli; cli.main()", "explain", "run"]
    ended = fresh([], run.parent, poor.replace("*W", ", ".join(map(repr, words))))
    assert (ended.returncode, ended.stderr) == (0, b"")


COMMANDS = ("list", "doctor", "audit nosuch", "run nosuch", "report run", "explain run", "diff run run", "fuzz nosuch")


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_stream_that_was_closed_around_a_script_changes_no_exit_code(command: str, number: int, run: Path) -> None:
    """A shell opens its script under the number that is free, and what the script starts has it open for reading."""
    script = run.parent / "script.sh"
    script.write_text(f"cd {ROOT}\nexec {sys.executable} -m harness.commands.main {command} --out {run.parent}\n")
    if command.split()[0] in ("list", "doctor", "audit", "fuzz"):
        script.write_text(script.read_text().replace(f" --out {run.parent}", ""))
    codes = [
        subprocess.run(["bash", "-c", f"bash {script} {closed}"], capture_output=True, check=False).returncode
        for closed in ("", f"{number}>&-")
    ]
    assert codes[0] == codes[1]
    assert codes[0] in (0, 1, 2), "doctor may find something here"
