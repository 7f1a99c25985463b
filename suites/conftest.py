"""The gate's engine: one run per entry of the plan and pytest session, shared by all tests and all workers of xdist.

In: the options of the command line. Out: the tests' parameters, and a `Gated` per entry that says of each case
what is wrong with it. A known upstream defect is expected exactly as it is listed (`harness/judge/known_defects.toml`).
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from harness.errors import UsageError
from harness.flatbuffer.quantise import known_recipe
from harness.inputs.decode import DECODE_INPUT
from harness.inputs.tokens import DEFAULT_INPUT_IDS
from harness.judge.known_defects import Expected, Match, case_problem, load_defects, match, problems
from harness.names.recipes import Recipe, is_file, parse_recipes
from harness.record.record import Case, Record
from harness.spec.find import find_spec, main_models
from harness.system.reading import read_text
from suites.plan import Entry, default_plan, named

ENTRIES = pytest.StashKey[list[Entry]]()
REPORT, KNOWN = "parity_report", "known_defect"
_PR_SET_PDEATHSIG = 1
_GRACE = 20  # seconds that an interrupted run has for putting its things away
_NOT_RUN = re.compile(r"^(?P<model>.+?): not run: (?P<why>.*)$")


def pytest_configure(config: pytest.Config) -> None:
    wanted, small = config.getoption("--model"), config.getoption("--miniature")
    if config.getoption("--decode") < 0:
        raise pytest.UsageError(f"--decode {config.getoption('--decode')} is negative; give 0 or more")
    try:
        recipes, words = _recipes(config)
        load_defects()
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    try:
        if wanted:
            refs = [find_spec(_from_start(config, model)) for model in wanted]
            config.stash[ENTRIES] = named(refs, small, recipes, words)
        else:
            config.stash[ENTRIES] = named(main_models().values(), small, recipes, words) if small else default_plan()
    except UsageError as error:
        raise pytest.UsageError(f"--model: {error}" if wanted else str(error)) from None


def _recipes(config: pytest.Config) -> tuple[tuple[Recipe, ...], str]:
    """Those of `--quantize`, and the words for `edge-parity run`. A file's relative path counts from where pytest was
    started. Raises UsageError."""
    asked = config.getoption("--quantize")
    if asked is None:
        return (), ""
    if not config.getoption("--model") and not config.getoption("--miniature"):
        raise UsageError("--quantize is for models that are named; add --model NAME or --miniature")
    words = [word.strip() for word in asked.split(",")]
    text = ",".join(str(config.invocation_params.dir / word) if is_file(word) else word for word in words)
    return parse_recipes(text, known_recipe, read_text), text


def _from_start(config: pytest.Config, model: str) -> str:
    """A spec file's relative path counts from where pytest was started."""
    is_path = model.endswith(".py") or ".py:" in model or "/" in model
    return str(config.invocation_params.dir / model) if is_path else model


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "entry" not in metafunc.fixturenames:
        return
    if "hop" not in metafunc.fixturenames:
        entries = [pytest.param(entry, id=entry.name, marks=_marks(entry)) for entry in metafunc.config.stash[ENTRIES]]
        metafunc.parametrize("entry", entries)
        return
    cases = [
        pytest.param(
            entry,
            hop.name,
            item,
            id=f"{entry.name}-{hop.name}-{item}",
            marks=_marks(entry),
        )
        for entry in metafunc.config.stash[ENTRIES]
        for hop in entry.hops
        for item in gated_inputs(metafunc.config.getoption("--decode"))
    ]
    metafunc.parametrize(("entry", "hop", "item"), cases)


def _marks(entry: Entry) -> list[pytest.MarkDecorator]:
    further = [pytest.mark.further] if entry.further else []
    return [*further, pytest.mark.extras(entry.extra)] if entry.extra else further


def gated_inputs(decode: int) -> tuple[str, ...]:
    """The inputs of a run that names none. decode: how many tokens it draws."""
    return (*DEFAULT_INPUT_IDS, *((DECODE_INPUT,) if decode else ()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Where the reports are and which known defects were met: one line a run, green or red."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    for title, name in (("known upstream defects", KNOWN), ("parity reports", REPORT)):
        lines = {value for report in reports for key, value in report.user_properties if key == name}
        if lines:
            terminalreporter.section(title)
            for line in sorted(lines):
                terminalreporter.line(line)


@dataclass(frozen=True)
class Gated:
    """What came of an entry's run: its record, or the one line it ended with."""

    record: Record | None
    report: Path | None
    error: str = ""
    known: Match = field(default_factory=Match)

    def properties(self) -> list[tuple[str, str]]:
        """What every test of the run carries, into JUnit files too: where its report is, and the defects it shows."""
        if self.record is None:
            return []
        name = self.record.model + (f" ({self.record.variant})" if self.record.variant != "default" else "")
        found = [(REPORT, f"{name}: {self.record.verdict} {self.report}")]
        for expected in self.known.expected:
            if expected.state == "seen":
                found.append((KNOWN, f"{expected.defect.id}: {name}, {expected.place}{self._versions(expected)}"))
        return found

    def _versions(self, expected: Expected) -> str:
        differ = expected.defect.differing_versions(self.record.environment) if self.record is not None else ""
        return f" ({differ})" if differ else ""

    def problem(self, hop: str, item: str) -> str:
        """Why this case does not pass, in one line; empty when it does, or fails exactly as a known defect says."""
        if self.record is None:
            return self.error
        case = next((case for case in self.record.cases if (case.hop, case.input) == (hop, item)), None)
        expected = self.known.by_hop.get(hop)
        if case is None:
            why = f"{hop} on {item}: missing, the run did not compare it"
        elif expected is not None:
            why = case_problem(case, expected)
            why += self._versions(expected) if why else ""
        else:
            why = _case_problem(case)
        # What fails a run as a whole fails each of its cases: a red run must not look green in any part.
        why = why or next(iter(problems(self.record, self.known)), "") or self._beside(hop)
        return f"{why}; report {self.report}" if why else ""

    def _beside(self, hop: str) -> str:
        """What is wrong on an input that has no test of its own: an edge of the context. Empty where nothing is."""
        if self.record is None or hop in self.known.by_hop:
            return ""
        own = {*DEFAULT_INPUT_IDS, DECODE_INPUT}
        others = [case for case in self.record.cases if case.hop == hop and case.input not in own]
        return next(filter(None, map(_case_problem, others)), "")

    def law_problem(self) -> str:
        """Why the laws of the run's stages do not all hold, in one line; empty where they do, or are broken exactly as
        a known defect says."""
        if self.record is None:
            return self.error
        if not self.record.laws:
            return f"the laws were not checked; report {self.report}"
        why = next(iter(problems(self.record, self.known)), "")
        return f"{why}; report {self.report}" if why else ""


def _case_problem(case: Case) -> str:
    if case.verdict == "pass":
        return ""
    if case.verdict == "missing":
        return f"missing: {case.message}"
    if case.excess is None or re.search(r"\bexcess", case.message):
        return case.message
    return f"{case.message}; excess {case.excess:.3g}"


class Runs:
    """Runs each entry once, whichever worker asks first; the others wait for it and read what it left.

    Entries with the same options go together, so that the frameworks are imported once for them: those of `chosen`,
    which the tests of this session ask for.
    """

    def __init__(self, config: pytest.Config, shared: Path, session: str, chosen: Sequence[Entry]) -> None:
        self._config, self._shared, self._session, self._chosen = config, shared, session, chosen
        self._known: dict[Entry, Gated] = {}

    def of(self, entry: Entry) -> Gated:
        if entry not in self._known:
            group = [other for other in self._chosen if other.options == entry.options]
            words = [*entry.options, *(other.model for other in group)]
            name = f"parity-{self._session}-{hashlib.sha256(repr(words).encode()).hexdigest()[:16]}"
            state = self._shared / f"{name}.json"
            with FileLock(self._shared / f"{name}.lock"):
                if not state.exists():
                    models = list(dict.fromkeys(other.model for other in group))
                    state.write_text(json.dumps(self._run(models, entry.options, self._shared / f"{name}.stdout")))
            for model, came in json.loads(state.read_text()).items():
                self._known |= {other: _gated(came) for other in group if other.model == model}
        return self._known[entry]

    def _run(self, models: list[str], options: tuple[str, ...], output: Path) -> dict[str, dict[str, str]]:
        """What came of each model: the folder of its run, or the one line it ended with."""
        out = _out(self._config)
        decode = ("--decode", str(self._config.getoption("--decode")))
        words = [*models, *options, *decode, "--laws", "--json", "--out", str(out)]
        command = [sys.executable, "-m", "harness.commands.main", "run", *words]
        code, said = _call(command, self._config.rootpath, output)
        text = output.read_text(encoding="utf-8")
        if not text.strip() and len(models) > 1 and code == 2:  # one is wrong before any could start
            return {model: self._run([model], options, output)[model] for model in models}
        content = json.loads(text or "[]")
        records = [Record.model_validate(item) for item in (content if isinstance(content, list) else [content])]
        errors = {found["model"]: found["why"] for line in said if (found := _NOT_RUN.match(line))}
        last = (said or [""])[-1].removeprefix("edge-parity: ")
        came: dict[str, dict[str, str]] = {}
        for model in models:
            if model in errors or not records:
                came[model] = {"error": errors.get(model) or last or f"the run ended with exit code {code} and no word"}
            else:
                record = records.pop(0)
                came[model] = {"folder": str((out / record.model / record.run_id).resolve())}
        return came


def _out(config: pytest.Config) -> Path:
    given = config.getoption("--parity-out")
    return config.invocation_params.dir / given if given else config.rootpath / "reports"


def _gated(state: dict[str, str]) -> Gated:
    if "error" in state:
        return Gated(None, None, state["error"])
    folder = Path(state["folder"])
    record = Record.model_validate_json((folder / "parity.json").read_bytes())
    return Gated(record, folder / "report.html", known=match(record, load_defects()))


def _call(command: list[str], folder: Path, output: Path) -> tuple[int, list[str]]:
    """Run, passing progress on to our stderr (pytest shows it with -s). Returns exit code and lines.

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
        said: list[str] = []
        try:
            assert process.stderr is not None
            for line in process.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                said += [line.strip()] if line.strip() else []
            return process.wait(), said
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
    asked = [item.callspec.params.get("entry") for item in request.session.items if hasattr(item, "callspec")]
    chosen = list(dict.fromkeys(entry for entry in asked if isinstance(entry, Entry)))
    return Runs(request.config, base.parent if worker else base, session, chosen)
