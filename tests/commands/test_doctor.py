"""The doctor tells what is missing and how to fix it, and never breaks on the machine it examines."""

import importlib.metadata
import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from harness.commands import doctor
from harness.commands.doctor import Check, as_json, examine, print_checks, works
from harness.store.cache import ENTRY_FILE, Cache
from harness.store.flex import folder_of


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture(autouse=True)
def empty_cache_and_no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where variables are set that frameworks may refuse, the doctor imports these in a process, for seconds."""
    monkeypatch.setenv("EDGE_PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "variables_set", list)


def versions(changed: dict[str, str | None]) -> Callable[[str], str]:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in changed:
            found = changed[name]
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found
        return real(name)

    return version


def test_every_pin_of_the_distribution_is_checked(tmp_path: Path) -> None:
    checks = by_name(examine(tmp_path))
    for line in importlib.metadata.requires("edge-parity") or []:
        if "extra ==" not in line:
            assert checks[line.split("=")[0].split(">")[0]].status == "ok", line


def test_what_is_not_in_order_has_a_remedy(tmp_path: Path) -> None:
    assert all(check.remedy for check in examine(tmp_path) if check.status != "ok")


def test_another_version_than_the_measured_one_warns_and_an_absent_one_stops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", versions({"transformers": "5.24.0", "gguf": None}))
    checks = examine(tmp_path)
    found = by_name(checks)
    assert (found["transformers"].status, found["gguf"].status) == ("warning", "missing")
    assert "5.24.0, measured with ==5.23.0" in found["transformers"].what
    assert "make -B venv" in found["gguf"].remedy
    assert not works(checks)


def test_a_local_version_tag_satisfies_the_pin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.metadata, "version", versions({"torch": "2.13.0+cpu"}))
    assert by_name(examine(tmp_path))["torch"].status == "ok"


def test_an_absent_extra_warns_and_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.metadata, "version", versions({"ai-edge-model-explorer": None}))
    check = by_name(examine(tmp_path))["extra explorer"]
    assert check.status == "warning"
    assert "edge-parity explore" in check.what


def test_an_extra_that_the_installation_leaves_out_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", versions({"keras-hub": None}))
    check = by_name(examine(tmp_path))["extra keras"]
    assert check.status == "warning"
    assert "keras-hub (not installed" in check.what
    assert "make extras" in check.remedy
    assert works(examine(tmp_path)), "nothing else needs it"


def test_a_checkout_that_is_not_installed_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    monkeypatch.setattr(importlib.metadata, "metadata", requires)
    check = by_name(examine(tmp_path))["distributions"]
    assert (check.status, check.remedy) == ("missing", doctor.REINSTALL)


def test_a_python_out_of_range_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.14.0")
    check = by_name(examine(tmp_path))["python"]
    assert check.status == "missing"
    assert "PYTHON=python3.11" in check.remedy


def test_a_cuda_build_of_torch_without_its_libraries_is_found_without_importing_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    places = {"torch": SimpleNamespace(submodule_search_locations=[str(tmp_path)])}
    monkeypatch.setattr(importlib.util, "find_spec", places.get)
    assert by_name(examine(tmp_path))["torch build"].status == "missing"


@pytest.mark.parametrize(
    ("total", "available", "status"), [(24e9, 20e9, "ok"), (24e9, 2e9, "warning"), (4e9, 3e9, "missing")]
)
def test_memory_is_held_against_a_conversion(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: float, available: float, status: str
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=int(total), available=int(available)))
    monkeypatch.setattr("harness.system.memory.group_limits", lambda root: [])
    check = by_name(examine(tmp_path))["memory"]
    assert check.status == status
    assert ("4.7 GB" in check.what) == (status != "ok")


def test_a_container_limit_counts_more_than_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("harness.system.memory.group_limits", lambda root: [(2_000_000_000, 1_000_000_000)])
    assert by_name(examine(tmp_path))["memory"].status == "missing"


def test_a_full_disk_is_missing_and_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100_000_000))
    checks = by_name(examine(tmp_path))
    assert checks["disk for the cache"].status == "missing"
    assert "EDGE_PARITY_CACHE" in checks["disk for the cache"].remedy
    assert "--out" in checks["disk for runs"].remedy


def test_a_reports_folder_that_is_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "reports").touch()
    assert by_name(examine(tmp_path / "reports" / "deeper"))["disk for runs"].status == "missing"


def test_the_cache_is_counted_by_kind(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "model.tflite").write_bytes(b"x" * 2_000_000)

    Cache.standard().build("tflite", "abc", make)
    assert "tflite 1 (2 MB)" in by_name(examine(tmp_path))["cache"].what


def test_json_and_terminal_say_the_same() -> None:
    checks = [Check("python", "ok", "3.11.7"), Check("gguf", "missing", "not installed", "run 'make'")]
    assert json.loads(as_json(checks))["works"] is False
    assert [item["name"] for item in json.loads(as_json(checks))["checks"]] == ["python", "gguf"]
    console = Console(file=io.StringIO(), width=40)
    print_checks(checks, console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "ok      python  3.11.7",
        "missing gguf    not installed",
        "                -> run 'make'",
        "will not work here: gguf",
    ]


def test_the_environment_with_flex_is_told_with_the_command_that_builds_it(tmp_path: Path) -> None:
    check = by_name(examine(tmp_path))["flex"]
    assert check.status == "warning"
    assert "doctor --install-flex" in check.remedy
    assert works(examine(tmp_path)), "nothing else needs it"
    python = folder_of(Cache.standard()) / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("")
    python.chmod(0o755)
    (python.parent.parent / ENTRY_FILE).write_text("{}")
    assert by_name(examine(tmp_path))["flex"].status == "ok"
