"""A package that refuses a variable when it is imported is named with that variable, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from harness.commands.exits import explained
from harness.processes import refusals


def raised(folder: Path, importer: Path, then: str = "") -> Exception:
    """What comes of importing a package that reads a variable it does not like. importer: the file that imports it."""
    package = folder / "lib" / "site-packages" / "odd_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def call():\n    raise ValueError('of its own')\n")
    if not then:
        (package / "__init__.py").write_text("raise ValueError('no such level: bogus')\n")
    sys.path.insert(0, str(package.parent))
    try:
        exec(compile(f"import odd_package\n{then}", str(importer), "exec"), {})
    except ValueError as error:
        return error
    finally:
        sys.path.remove(str(package.parent))
        sys.modules.pop("odd_package", None)
    raise AssertionError("it raises nothing")


OURS = ROOT / "harness" / "stages" / "some_stage.py"


def test_the_package_its_words_and_the_variable_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "STARTED_WITH", {"TORCH_LOGS": "bogus", "HOME": "/root", "OMP_NUM_THREADS": "9" * 99})
    said, code = explained(raised(tmp_path, OURS))
    assert code == 2
    assert said == (
        "odd_package cannot be imported (ValueError: no such level: bogus); "
        f"unset what it may refuse of OMP_NUM_THREADS={'9' * 60}, TORCH_LOGS=bogus"
    )


def test_without_such_a_variable_nobody_foresaw_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "STARTED_WITH", {"HOME": "/root"})
    error = raised(tmp_path, OURS)
    assert explained(error)[1] == 4
    assert refusals.words_of(error).endswith("'edge-parity doctor' looks at the installation")


def test_what_a_spec_imports_and_what_a_package_raises_later_is_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "STARTED_WITH", {"TORCH_LOGS": "bogus"})
    assert refusals.refused(raised(tmp_path / "a", tmp_path / "spec.py")) == ""
    assert refusals.refused(raised(tmp_path / "b", OURS, "odd_package.call()")) == ""


@pytest.mark.process
def test_warnings_that_a_person_wants_as_errors_stop_no_stage() -> None:
    code = (
        "import warnings; from harness.processes.worker import let_warnings_be; let_warnings_be(); "
        "warnings.warn('old', FutureWarning); warnings.warn('old', DeprecationWarning); print('on')"
    )
    for flags in (["-W", "error"], ["-W", "error::FutureWarning", "-W", "ignore::DeprecationWarning"]):
        ended = subprocess.run(
            [sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout) == (0, "on\n"), ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [["audit", "tiny_llama"], ["run", "tiny_llama", "--miniature"]])
@pytest.mark.parametrize(("variable", "package"), [("TORCH_LOGS=bogus", "torch"), ("PYTHONOPTIMIZE=2", "transformers")])
def test_a_command_that_needs_it_ends_with_2_and_one_line(
    words: list[str], variable: str, package: str, tmp_path: Path
) -> None:
    name, _, value = variable.partition("=")
    ended = subprocess.run(
        [sys.executable, "-m", "harness.commands.main", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "EDGE_PARITY_CACHE": str(tmp_path / "cache"), name: value},
    )
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 2
    assert last.startswith(f"edge-parity: {package} cannot be imported (ValueError: ")
    assert variable in last.split("; unset what it may refuse of ")[1]
    assert "Traceback" not in ended.stderr
