"""The gate's engine: one run per model and pytest session, shared by all its tests and all workers of pytest-xdist.

In: the options of the command line. Out: the tests' parameters, and a `Gated` per model that says of each case
what is wrong with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from harness.compare import STANDARD_HOPS
from harness.errors import UsageError
from harness.inputs import DEFAULT_INPUT_IDS
from harness.record import Case, Record
from harness.spec import SpecRef, find_spec, registered

MODELS = pytest.StashKey[dict[str, SpecRef]]()  # what `edge-parity run` calls a model -> its declaration
REPORT = "parity_report"
_PR_SET_PDEATHSIG = 1
_GRACE = 20  # seconds that an interrupted run has for putting its things away


def pytest_configure(config: pytest.Config) -> None:
    wanted = config.getoption("--model")
    try:
        # By what a run calls it, so that a model named twice is run once.
        refs = [find_spec(_from_start(config, model)) for model in wanted]
        config.stash[MODELS] = {_called(ref): ref for ref in refs} if wanted else dict(registered())
    except UsageError as error:
        raise pytest.UsageError(f"--model: {error}" if wanted else str(error)) from None


def _from_start(config: pytest.Config, model: str) -> str:
    """A spec file's relative path counts from where pytest was started."""
    is_path = model.endswith(".py") or ".py:" in model or "/" in model
    return str(config.invocation_params.dir / model) if is_path else model


def _called(ref: SpecRef) -> str:
    if registered().get(ref.name) == ref:
        return ref.name
    return f"{ref.file.resolve()}:{ref.variable}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "hop" not in metafunc.fixturenames:
        return
    cases = [
        pytest.param(model, f"{a}->{b}", item, id=f"{ref.name}-{a}->{b}-{item}")
        for model, ref in metafunc.config.stash[MODELS].items()
        for a, b in STANDARD_HOPS
        for item in DEFAULT_INPUT_IDS
    ]
    metafunc.parametrize(("model", "hop", "item"), cases)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Where the reports are: one line a run, green or red."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = {value for report in reports for key, value in report.user_properties if key == REPORT}
    if lines:
        terminalreporter.section("parity reports")
        for line in sorted(lines):
            terminalreporter.line(line)


@dataclass(frozen=True)
class Gated:
    """What came of a model's run: its record, or the one line it ended with."""

    record: Record | None
    report: Path | None
    error: str = ""

    @property
    def properties(self) -> dict[str, str]:
        """What every test of the model carries, into JUnit files too: where its report is."""
        return {REPORT: f"{self.record.model}: {self.record.verdict} {self.report}"} if self.record else {}

    def problem(self, hop: str, item: str) -> str:
        """Why this case does not pass, in one line; empty when it does."""
        if self.record is None:
            return self.error
        case = next((case for case in self.record.cases if (case.hop, case.input) == (hop, item)), None)
        why = _case_problem(case) if case is not None else f"{hop} on {item}: missing, the run did not compare it"
        why = why or _run_problem(self.record)
        return f"{why}; report {self.report}" if why else ""


def _case_problem(case: Case) -> str:
    if case.verdict == "pass":
        return ""
    if case.verdict == "missing":
        return f"missing: {case.message}"
    if case.excess is None or re.search(r"\bexcess", case.message):
        return case.message
    return f"{case.message}; excess {case.excess:.3g}"


def _run_problem(record: Record) -> str:
    """What fails a run as a whole fails each of its cases: a red run must not look green in any part."""
    for stage in record.stages:
        if stage.status in ("crashed", "timeout"):
            return f"stage {stage.name} {stage.status}: {stage.detail}"
    for finding in record.findings:
        if finding.severity == "error":
            return f"{finding.kind} finding: {finding.what}"
    for hop in record.hops:
        if hop.verdict != "pass" and all(case.verdict == "pass" for case in record.cases if case.hop == hop.name):
            return f"{hop.name}: {'; '.join(hop.reasons)}"
    return ""


class Runs:
    """Runs each model once, whichever worker asks first; the others wait for it and read what it left."""

    def __init__(self, config: pytest.Config, shared: Path, session: str) -> None:
        self._config, self._shared, self._session = config, shared, session
        self._known: dict[str, Gated] = {}

    def of(self, model: str) -> Gated:
        """model: what `edge-parity run` takes."""
        if model not in self._known:
            name = f"parity-{self._session}-{hashlib.sha256(model.encode()).hexdigest()[:16]}"
            state = self._shared / f"{name}.json"
            with FileLock(self._shared / f"{name}.lock"):
                if not state.exists():
                    state.write_text(json.dumps(self._run(model, self._shared / f"{name}.stdout")))
            self._known[model] = _gated(json.loads(state.read_text()))
        return self._known[model]

    def _run(self, model: str, output: Path) -> dict[str, str]:
        out = _out(self._config)
        command = [sys.executable, "-m", "harness.cli", "run", model, "--json", "--out", str(out)]
        if self._config.getoption("--miniature"):
            command.append("--miniature")
        code, last = _call(command, self._config.rootpath, output)
        text = output.read_text(encoding="utf-8")
        if not text.strip():
            return {"error": last.removeprefix("edge-parity: ") or f"the run ended with exit code {code} and no word"}
        record = Record.model_validate_json(text)
        return {"folder": str((out / record.model / record.run_id).resolve())}


def _out(config: pytest.Config) -> Path:
    given = config.getoption("--parity-out")
    return config.invocation_params.dir / given if given else config.rootpath / "reports"


def _gated(state: dict[str, str]) -> Gated:
    if "error" in state:
        return Gated(None, None, state["error"])
    folder = Path(state["folder"])
    return Gated(Record.model_validate_json((folder / "parity.json").read_bytes()), folder / "report.html")


def _call(command: list[str], folder: Path, output: Path) -> tuple[int, str]:
    """Run, passing progress on to our stderr (pytest shows it with -s). Returns exit code and last line.

    The run has a process group of its own: Ctrl-C reaches it once, from here, and it puts its things away.
    """
    with (
        output.open("wb") as stdout,
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
            preexec_fn=_end_with_parent,
        ) as process,
    ):
        last = ""
        try:
            assert process.stderr is not None
            for line in process.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                last = line.strip() or last
            return process.wait(), last
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            process.kill()
            raise


def _end_with_parent() -> None:
    """Ask Linux to end the run when a worker of pytest-xdist is killed; elsewhere this does nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    base = tmp_path_factory.getbasetemp()
    worker = hasattr(request.config, "workerinput")
    # Workers have a folder each, in one that they share.
    session = request.getfixturevalue("testrun_uid") if worker else "session"
    return Runs(request.config, base.parent if worker else base, session)
