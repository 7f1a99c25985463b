"""`edge-parity explore` as a command: bad input, its address, the browser it opens, and how it ends."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from record_factory import FAULTY_TAP, make_run
from typer.testing import CliRunner

from harness.commands.main import app
from harness.errors import UsageError
from harness.explore.server import HOST
from harness.record.record import write_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("run")
    write_record(target, *make_run("fail"))
    return target


def refused(words: list[str]) -> str:
    result = CliRunner().invoke(app, ["explore", *words], standalone_mode=False)
    assert isinstance(result.exception, UsageError)
    assert result.output == ""
    return str(result.exception)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(folder: Path, port: int) -> None:
    assert f"--port {port} is not a port" in refused([str(folder), "--no-browser", "--port", str(port)])


def test_a_busy_port_is_refused_before_anything_is_said(folder: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port} is busy; give another" in refused([str(folder), "--port", str(port)])


def test_an_unknown_hop_and_a_folder_without_a_run_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "hf->reauthored" in refused([str(folder), "--hop", "hf->tflite"])
    assert "no run in" in refused([str(tmp_path)])


def test_an_unknown_level_is_refused(folder: Path) -> None:
    assert "--level layer is not a level; give one of tap, op" in refused([str(folder), "--level", "layer"])


def test_operators_of_a_run_that_has_no_models_are_refused_in_one_line(folder: Path) -> None:
    assert "run the model again" in refused([str(folder), "--level", "op", "--no-browser"])


def test_without_model_explorer_it_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'edge-parity[explorer]'" in refused([str(folder), "--no-browser"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_serves_and_ends_well(folder: Path, number: signal.Signals) -> None:
    words = [sys.executable, "-m", "harness.commands.main", "explore", str(folder), "--no-browser"]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        said, address = running.stdout.readline(), running.stdout.readline().split()[0]
        assert f"at its first fault {FAULTY_TAP}" in said
        port = urlsplit(address).port
        with socket.create_connection((HOST, port), timeout=10):  # one that a browser keeps open
            running.send_signal(number)
            rest, errors = running.communicate(timeout=30)
    finally:
        running.kill()
    assert (running.returncode, rest, errors) == (0, "", "")


@pytest.mark.slow
def test_two_at_once_on_one_run_have_an_address_each(folder: Path) -> None:
    words = [sys.executable, "-m", "harness.commands.main", "explore", str(folder), "--no-browser"]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        addresses = [read_address(running) for running in both]
        assert len({urlsplit(address).port for address in addresses}) == 2
        for address in addresses:
            with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(address, timeout=30) as page:
                assert page.status == 200
    finally:
        for running in both:
            running.terminate()
            running.wait(timeout=30)


def read_address(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return next(line for line in running.stdout if line.startswith("http://")).split()[0]


def opened_with(folder: Path, **environment: str) -> list[str]:
    """What the command says before it waits, without `--no-browser`."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    words = [sys.executable, "-m", "harness.commands.main", "explore", str(folder)]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=kept | environment)
    try:
        assert running.stdout is not None
        said = [running.stdout.readline(), running.stdout.readline()]
        if not environment:
            return [*said, running.stdout.readline()]
        opened = Path(environment["BROWSER"] + ".opened")
        while not opened.exists():
            assert running.poll() is None
            time.sleep(0.02)
        return [*said, opened.read_text()]
    finally:
        running.terminate()
        running.wait(timeout=30)


@pytest.mark.slow
def test_it_opens_the_browser_of_the_desktop(folder: Path, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > "$0.part" && mv "$0.part" "$0.opened"\n', encoding="utf-8")
    browser.chmod(0o755)
    _, address, opened = opened_with(folder, BROWSER=str(browser))
    assert opened.strip() == address.split()[0]


@pytest.mark.slow
def test_without_a_display_it_says_so_and_starts_no_text_browser(folder: Path) -> None:
    assert "no display here: open the address yourself" in opened_with(folder)[2]
