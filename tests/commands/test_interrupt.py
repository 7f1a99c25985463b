"""However a run ends, no process and no half run stays behind, and a stage that dies costs itself and not the run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paths import ROOT

pytestmark = pytest.mark.slow

SPEC = (ROOT / "models" / "tiny_llama.py").read_text()
PATIENCE = 120  # seconds until something that should happen counts as not happening
MARK = "EDGE_PARITY_TEST_RUN"

HANG = "import time; time.sleep(1e6)"
SEGFAULT = "import ctypes; ctypes.string_at(0)"


class Run:
    """A run under way in a session of its own, with everything it starts."""

    def __init__(self, out: Path, log: Path, *arguments: str | Path) -> None:
        self.out = out
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        self._errors = log
        name, _, value = self._mark.partition("=")
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "harness.commands.main",
                    "run",
                    *map(str, arguments),
                    "--json",
                    "--out",
                    str(out),
                ],
                cwd=ROOT,
                env={**os.environ, name: value},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    @property
    def stderr(self) -> str:
        return self._errors.read_text()

    def processes(self) -> dict[int, str]:
        """Process id -> command line of the run and of all it started, whoever their parent is by now."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended meanwhile
        return found

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, f"{what} did not happen; stderr: {self.stderr}"
            assert self.process.poll() is None, f"ended before {what}; stderr: {self.stderr}"
            time.sleep(0.02)

    def wait_for_line(self, line: str) -> None:
        self.wait_for(lambda: line in self.stderr, f"'{line}'")

    def end(self) -> tuple[int, str]:
        """Exit code and stdout, once it has ended by itself."""
        stdout, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stdout

    def assert_nothing_runs(self) -> None:
        until = time.monotonic() + 10
        while self.processes() and time.monotonic() < until:
            time.sleep(0.05)
        assert not self.processes()

    def clean_up(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Run] = []

    def call(*arguments: str | Path, out: Path | None = None) -> Run:
        started.append(Run(out or tmp_path / "runs", tmp_path / f"stderr-{len(started)}", *arguments))
        return started[-1]

    yield call
    for run in started:
        run.clean_up()


def failing_forward(statement: str, folder: Path) -> Path:
    """A spec file whose re-authored model runs a statement instead of computing anything."""
    forward = f"""
class _Failing(tiny_llama.TinyLlama):
    def forward(self, *args, **kwargs):
        {statement}


TINY_LLAMA ="""
    text = SPEC.replace("\nTINY_LLAMA =", forward).replace("tiny_llama.TinyLlama,", "_Failing,")
    file = folder / "failing.py"
    file.write_text(text)
    return file


def few_tokens(folder: Path) -> Path:
    file = folder / "few.jsonl"
    file.write_text('{"tokens": [5, 6, 7, 8], "id": "four"}\n')
    return file


def assert_interrupted(run: Run) -> None:
    code, stdout = run.end()
    assert code == 130
    assert stdout == ""
    assert run.stderr.splitlines()[-1] == "edge-parity: interrupted; stages ended, nothing written"
    assert "Traceback" not in run.stderr
    run.assert_nothing_runs()
    assert not run.out.exists()


def test_ctrl_c_in_the_middle_of_a_stage_leaves_nothing(start: Start, shipped: Path, tmp_path: Path) -> None:
    run = start(failing_forward(HANG, tmp_path), "--tflite", shipped, "--inputs", few_tokens(tmp_path))
    run.wait_for_line("reauthored: started")
    assert len(run.processes()) >= 3
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
    assert_interrupted(run)


@pytest.mark.further
def test_sigterm_in_the_middle_of_a_stage_leaves_nothing(start: Start, shipped: Path, tmp_path: Path) -> None:
    run = start(failing_forward(HANG, tmp_path), "--tflite", shipped, "--inputs", few_tokens(tmp_path))
    run.wait_for_line("oracle: started")
    run.process.send_signal(signal.SIGTERM)
    assert_interrupted(run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_while_frameworks_are_imported_leaves_nothing(number: signal.Signals, start: Start) -> None:
    run = start("tiny_llama")
    run.wait_for(lambda: any("forkserver" in command for command in run.processes().values()), "the fork server")
    run.process.send_signal(number)
    assert_interrupted(run)


def test_ending_the_server_while_it_is_asked_for_a_process_starts_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from multiprocessing import forkserver
    from multiprocessing.context import ForkServerProcess

    from harness.processes import server

    server.end()
    start = ForkServerProcess.start
    monkeypatch.setattr(ForkServerProcess, "start", lambda self: (time.sleep(0.3), start(self)))
    server.warm_up(tmp_path / "run.log")
    server.end()
    time.sleep(1)
    assert forkserver._forkserver._forkserver_pid is None  # type: ignore[attr-defined]


@pytest.mark.further
def test_a_stage_killed_from_outside_costs_only_its_own_hops(start: Start, shipped: Path, tmp_path: Path) -> None:
    run = start("tiny_llama", "--tflite", shipped, "--inputs", few_tokens(tmp_path))
    run.wait_for_line("tflite-builtin: started")
    (stage, *_) = [pid for pid, command in run.processes().items() if "multiprocessing.spawn" in command]
    os.kill(stage, signal.SIGKILL)
    code, stdout = run.end()
    assert code == 3
    record = json.loads(stdout)
    assert {entry["name"]: entry["status"] for entry in record["stages"]} == {
        "tap": "ok",
        "oracle": "ok",
        "hf": "ok",
        "reauthored": "ok",
        "tflite-xnnpack": "ok",
        "tflite-builtin": "crashed",
    }
    (detail,) = [entry["detail"] for entry in record["stages"] if entry["status"] == "crashed"]
    assert "SIGKILL" in detail
    assert "run.log" in detail
    assert {f"{hop['from']}->{hop['to']}": hop["verdict"] for hop in record["hops"]} == {
        "hf->reauthored": "pass",
        "reauthored->tflite-xnnpack": "pass",
        "reauthored->tflite-builtin": "fail",
    }
    assert_whole(run, record)


@pytest.mark.parametrize(
    ("statement", "options", "status", "says"),
    [
        pytest.param(SEGFAULT, [], "crashed", "SIGSEGV", id="segmentation fault", marks=pytest.mark.further),
        pytest.param(HANG, ["--timeout", "8"], "timeout", "time limit of 8 s", id="hang"),
    ],
)
def test_a_stage_that_dies_is_named_and_the_others_are_kept(
    statement: str, options: list[str], status: str, says: str, start: Start, shipped: Path, tmp_path: Path
) -> None:
    spec = failing_forward(statement, tmp_path)
    run = start(spec, "--tflite", shipped, "--inputs", few_tokens(tmp_path), *options)
    code, stdout = run.end()
    assert code == 3, run.stderr
    record = json.loads(stdout)
    stages = {entry["name"]: entry for entry in record["stages"]}
    assert stages["reauthored"]["status"] == status
    assert says in stages["reauthored"]["detail"]
    assert all(entry["status"] == "ok" for name, entry in stages.items() if name != "reauthored")
    assert [hop["verdict"] for hop in record["hops"]] == ["fail"] * 3
    assert all(case["verdict"] == "missing" and says in case["message"] for case in record["cases"])
    assert_whole(run, record)


def assert_whole(run: Run, record: dict[str, object]) -> None:
    """The one run folder holds this record, and nothing runs or lies about."""
    run.assert_nothing_runs()
    (folder,) = run.out.glob("*/*")
    assert folder.name == record["run_id"]
    assert json.loads((folder / "parity.json").read_text()) == record
    assert (folder / "report.html").is_file()
    assert not list(folder.glob(".*"))


@pytest.mark.further
def test_ctrl_c_among_several_models_keeps_what_was_done_and_one_server_serves_them_all(
    start: Start, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(SPEC.replace("from harness import", "import nothing_here\nfrom harness import"))
    hanging = failing_forward(HANG, tmp_path)
    run = start("tiny_llama", wrong, hanging, "--stages", "reauthored", "--inputs", few_tokens(tmp_path))

    def served() -> set[int]:
        """The server and what it has forked, which carry the same command line."""
        return {pid for pid, command in run.processes().items() if "from multiprocessing.forkserver" in command}

    run.wait_for_line("oracle: done")
    first = served()
    run.wait_for_line(f"model 3 of 3: {hanging}")
    run.wait_for(lambda: served() - first, "a process of the third model")
    assert first & served()
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
    code, stdout = run.end()
    assert (code, stdout) == (130, "")
    assert f"{wrong}: not run: " in run.stderr
    last = f"edge-parity: interrupted; stages ended; 2 of 3 models were done, their runs are in {run.out}"
    assert run.stderr.splitlines()[-1] == last
    assert "Traceback" not in run.stderr
    run.assert_nothing_runs()
    assert {path.name for path in run.out.iterdir()} == {"tiny_llama", "index.html"}
    (folder,) = (run.out / "tiny_llama").iterdir()  # and no half run, hidden or not
    assert (folder / "parity.json").is_file()


@pytest.mark.further
def test_two_runs_at_once_into_one_folder_both_succeed(start: Start, shipped: Path, tmp_path: Path) -> None:
    runs = [start("tiny_llama", "--tflite", shipped, "--inputs", few_tokens(tmp_path)) for _ in range(2)]
    ids = set()
    for run in runs:
        code, stdout = run.end()
        assert code == 0, run.stderr
        ids.add(json.loads(stdout)["run_id"])
    assert {folder.name for folder in (tmp_path / "runs" / "tiny_llama").iterdir()} == ids
    assert len(ids) == 2


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a disk of its own cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_clear_line_and_no_half_record(start: Start, shipped: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "512k") as disk:
        run = start("tiny_llama", "--tflite", shipped, out=disk / "runs")
        code, stdout = run.end()
        assert code in (2, 3), run.stderr
        assert stdout == ""
        assert "No space left" in run.stderr.splitlines()[-1]
        assert f"--out {disk / 'runs'}" in run.stderr.splitlines()[-1]
        assert "free some space" in run.stderr.splitlines()[-1]
        assert "Traceback" not in run.stderr
        run.assert_nothing_runs()
        assert not list(disk.iterdir())
