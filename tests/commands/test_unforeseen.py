"""Whatever happens is one line and an exit code: what nobody foresaw has one of its own, and nothing blocks a command.

Pipes, devices and files of gigabytes in place of what people write; standard streams that are closed, full or unread;
names that act on a terminal.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from paths import ROOT
from record_factory import make_run
from rich.console import Console

from harness.commands import exits
from harness.commands.progress import PlainProgress
from harness.errors import UsageError
from harness.inputs.tokens import check_jsonl
from harness.judge.rules import load_rules
from harness.plain import brief, shown, shown_cell
from harness.record.record import read_record, write_record
from harness.render.console import cells, line, new_table, wrapped
from harness.render.index import write_index
from harness.spec.find import describe
from harness.store.run_folder import working_folder
from harness.system.reading import read_bytes, read_json, read_toml
from harness.weights.sources import check_source


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


@pytest.mark.parametrize("number", sorted(exits._SYSTEM))
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
    assert any(tmp_path.rglob("diff.*.pyc")) is writes


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


# --- pipes, devices, sizes ---


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_giant(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8_000_000_000)  # takes no room: nothing is written


def a_dead_link(path: Path) -> None:
    path.symlink_to("gone")


ODD = {
    "pipe": a_pipe,
    "device": a_device,
    "8,000,000,000 bytes": a_giant,
    "a link to gone, which is not there": a_dead_link,
}
READERS: dict[str, Callable[[Path], object]] = {
    "inputs": check_jsonl,
    "tolerances": load_rules,
    "declaration": describe,
    "record": lambda path: read_record(path.parent),
    "json": lambda path: read_json(path, "give another"),
}


@pytest.mark.parametrize("words", ODD)
@pytest.mark.parametrize("reader", READERS)
def test_only_a_regular_file_of_a_sane_size_is_read(reader: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "parity.json"
    ODD[words](path)
    with pytest.raises(UsageError) as refused:
        READERS[reader](path)
    assert str(path) in str(refused.value)
    assert words in str(refused.value)
    if words == "pipe":  # nothing is wrong with what comes out of it
        assert str(refused.value).endswith("write what comes out of it to a file first")


@pytest.mark.parametrize("words", ["pipe", "device"])
def test_a_flatbuffer_that_is_no_file_is_not_waited_for(words: str, tmp_path: Path) -> None:
    from harness.flatbuffer.reader import FlatbufferModel

    ODD[words](tmp_path / "m.tflite")
    with pytest.raises(UsageError, match=f"m.tflite cannot be read .it is a {words}"):
        FlatbufferModel(tmp_path / "m.tflite")


@pytest.mark.slow
def test_what_a_command_writes_into_a_shell_s_substitution_says_what_to_do(tmp_path: Path) -> None:
    words = f"exec {sys.executable} -m harness.commands.main run tiny_llama --inputs <(echo '{{\"tokens\": [1]}}')"
    ended = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "write what comes out of it to a file first" in ended.stderr


def test_a_file_that_grows_while_it_is_read_ends(tmp_path: Path) -> None:
    assert len(read_bytes(Path("/proc/self/status"), "")) > 100  # its size is said to be 0
    with pytest.raises(UsageError, match="more than 10 bytes"):
        read_bytes(Path("/proc/self/status"), "", 10)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "9" * 5000,
        "x = " + "[" * 100_000,
        "[[rule]]\nexcess = 0x1" + "0" * 5000,
        "[[rule]]\nname = 0x1" + "0" * 5000 + "\nexcess = 4.0",
        "[[rule]]\nexcess = " + "9" * 400,
    ],
    ids=["many digits", "deep", "a limit of many bits", "a name of many bits", "a limit beyond floats"],
)
def test_numbers_and_nesting_that_python_does_not_read_are_refused_in_tolerances(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(UsageError, match=r"t\.toml") as refused:
        load_rules(tmp_path / "t.toml")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000, '{"a":' * 100_000], ids=["digits", "[", "{"])
def test_the_same_in_json_and_in_declarations(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"config\.json is not valid JSON"):
        read_json(path, "download it again")
    if "f" not in text:
        path.write_text(f"x = {text}", encoding="utf-8")
        with pytest.raises(UsageError, match=r"config\.json"):
            describe(path)


def test_a_byte_order_mark_before_what_a_person_wrote_is_no_part_of_it(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    tolerances, inputs, spec = (tmp_path / name for name in ("own.toml", "own.jsonl", "own.py"))
    tolerances.write_bytes(mark + b"[[rule]]\nname = 'all'\nexcess = 4.0\n")
    assert load_rules(tolerances)[0].name == "all"
    inputs.write_bytes(mark + b'{"tokens": [1, 2]}\n')
    check_jsonl(inputs)
    spec.write_bytes(mark + b"from harness import GenerativeModel\nMODEL = GenerativeModel(name='m')\n")
    assert [ref.name for ref in describe(spec)] == ["m"]


def test_a_byte_order_mark_that_transformers_would_not_read_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_bytes(b'\xef\xbb\xbf{"model_type": "llama"}')
    with pytest.raises(UsageError, match="byte order mark, which transformers refuses; save it as UTF-8 without one"):
        read_json(config, "download it again")


def test_what_is_right_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('[[rule]]\nname = "Größe"\nexcess = 4\n', encoding="utf-8")
    (tmp_path / "link").symlink_to("t.toml")
    assert read_toml(tmp_path / "link", "tolerances", "")["rule"][0]["name"] == "Größe"
    assert load_rules(tmp_path / "link")[0].limits == {"excess": 4.0}


@pytest.mark.parametrize("words", ODD)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_of_weights_is_looked_at_before_anything_reads_it(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / name).unlink(missing_ok=True)
    ODD[words](tmp_path / name)
    if name == "model.safetensors" and words == "8,000,000,000 bytes":
        words = "broken safetensors header"  # that is what weights may weigh; their header says whether they do
        with pytest.raises(UsageError, match=f"{name} has a {words}; download it again"):
            check_source(str(tmp_path))
        return
    remedy = "write what comes out of it to a file first" if words == "pipe" else "download it again"
    with pytest.raises(UsageError, match=f"{name} cannot be read .*{words}.*; {remedy}"):
        check_source(str(tmp_path))


def test_links_to_nowhere_and_pipes_that_nobody_reads_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    a_dead_link(tmp_path / "README.md")
    a_dead_link(tmp_path / "training_args.json")
    a_pipe(tmp_path / "notes.txt")
    with pytest.raises(UsageError, match=r"has no \*\.safetensors; give a folder"):  # and nothing else is wrong
        check_source(str(tmp_path))


# --- names that act ---


HOSTILE = "a\x1b[2Jb\u202ec\u061cd\u2028e\r\n::error::f ##[error]g"


def test_what_is_shown_is_one_line_that_no_terminal_and_no_log_obeys() -> None:
    said = shown(HOSTILE)
    assert not set(said) & set("\x1b\u202e\u061c\u2028\r\n")
    assert "##[" not in said
    assert shown("  ::error::x") == "  : :error::x"
    assert shown("::stop-commands::x").startswith(": :")
    assert shown("tests/a.py::test  b") == "tests/a.py::test  b"
    assert shown_cell("a\n::b") == "a\n: :b"


def test_every_way_to_the_terminal_takes_hostile_names(capsys: pytest.CaptureFixture[str]) -> None:
    progress = PlainProgress()
    progress.model(HOSTILE, 1, 2)
    progress.started(HOSTILE)
    exits.warn(HOSTILE)
    with pytest.raises(SystemExit):
        exits.fail(HOSTILE)
    console = Console(width=60)
    line(console, HOSTILE)
    wrapped(console, HOSTILE, indent=0)
    table = new_table(HOSTILE, [("a", False)])
    table.add_row(*cells(HOSTILE))
    console.print(table)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not set(text) & set("\x1b\u202e\u061c\u2028\r")
        assert "##[" not in text
        assert not [each for each in text.splitlines() if each.lstrip().startswith("::")]
    assert len(err.splitlines()) == 4


def test_json_on_stdout_holds_no_command_and_means_the_same(run: Path) -> None:
    from harness.plain import json_for_a_log

    text = json.dumps({"a ##[error]b": ["##[group]"]})
    assert "##[" not in json_for_a_log(text)
    assert json.loads(json_for_a_log(text)) == json.loads(text)


def test_values_of_any_size_are_said_in_brief() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert brief(1 << 100_000) == "a number of 100001 bits"
    assert brief(deep) == "a list nested too deeply"
    assert brief("x" * 1000, 20) == "'" + "x" * 16 + "..."
    assert brief(4.5) == "4.5"
