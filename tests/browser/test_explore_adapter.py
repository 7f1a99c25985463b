"""The extension for the stock Model Explorer: a run opens through its own extension manager, server and page."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser import chromium, in_a_browser
from panes import SIZE, Panes
from record_factory import BLOCKS, FAULTY_TAP, make_run

from harness.names.taps import tap_order
from harness.record.record import write_record
from harness.render.explorer import FOLDER, OVERLAYS, write_explorer

pytestmark = pytest.mark.slow  # Model Explorer imports torch
EXTENSION = "harness.explore.adapter"
# The stock command, without its question to a package index and without the adapters that take long to import.
_STOCK = """
import sys
from model_explorer import server
from model_explorer.extension_manager import ExtensionManager
server._check_new_version = lambda *_: {"version": ""}
ExtensionManager.BUILTIN_ADAPTER_MODULES = []
from model_explorer.cmdline import main
main()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    record, frame = make_run("kernel")
    write_record(folder, record, frame)
    write_explorer(folder, record, frame)
    return folder


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Model Explorer's own, with this extension alone."""
    manager = pytest.importorskip("model_explorer.extension_manager").ExtensionManager
    monkeypatch.setattr(manager, "BUILTIN_ADAPTER_MODULES", [])
    monkeypatch.setattr(manager, "instance", None)
    made = manager([EXTENSION])
    made.load_extensions()
    return made


def convert(manager: Any, path: Path) -> list[dict[str, Any]]:
    command = {"cmdId": "convert", "extensionId": "edge_parity", "modelPath": str(path), "settings": {}}
    answer = manager.run_cmd({**command, "deleteAfterConversion": False})
    json.dumps(answer, allow_nan=False)
    return list(answer["graphCollections"])


def test_the_extension_is_the_first_choice_for_json(manager: Any) -> None:
    adapters = [entry for entry in manager.get_extensions_metadata() if entry["type"] == "adapter"]
    assert next(entry["id"] for entry in adapters if "json" in entry["fileExts"]) == "edge_parity"


def test_a_run_opens_as_both_sides_of_every_hop_and_the_faulty_one_first(manager: Any, run: Path) -> None:
    opened = convert(manager, run / "parity.json")
    labels = [collection["label"] for collection in opened]
    assert len(set(labels)) == 6
    assert all(label.startswith("reauthored->tflite-xnnpack/") for label in labels[:2])
    for collection in opened:
        (graph,) = collection["graphs"]
        assert [node["id"] for node in graph["nodes"]] == tap_order(BLOCKS)


def test_the_overlays_of_a_graph_come_without_a_file(manager: Any, run: Path) -> None:
    graph = "reauthored->tflite-xnnpack/tflite-xnnpack"
    command = {"cmdId": "run", "extensionId": "edge_parity_overlays", "modelPath": str(run / "parity.json")}
    answer = manager.run_cmd({**command, "graphId": graph, "configValues": {}})
    assert not answer["error"]
    found = {data["name"]: data for data in answer["result"]}
    assert tuple(found) == OVERLAYS
    assert found["verdict"]["results"][FAULTY_TAP]["value"] == "fail"
    assert found["excess"]["results"][FAULTY_TAP]["value"] > 4
    refused = manager.run_cmd({**command, "graphId": "another", "configValues": {}})
    assert refused["error"].startswith("another is not a graph of ")


def test_the_graphs_of_a_run_open_through_the_extension_as_they_are(manager: Any, run: Path) -> None:
    path = run / FOLDER / "hf-to-reauthored.to.graph.json"
    (opened,) = convert(manager, path)
    assert opened["graphs"] == json.loads(path.read_text())["graphs"]


def test_another_json_file_is_refused_in_one_line(manager: Any, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(Exception, match=r"other\.json holds no graphs; give the parity\.json of a run"):
        convert(manager, tmp_path / "other.json")


@pytest.fixture(scope="module")
def stock(run: Path) -> Iterator[str]:
    """The address of the stock server, started as its documentation says."""
    pytest.importorskip("model_explorer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(run / "parity.json"), f"--extensions={EXTENSION}", "--host=127.0.0.1", f"--port={port}"]
    command = [sys.executable, "-c", _STOCK, *words, "--no_open_in_browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        said = next(line for line in server.stdout if line.startswith("http://"))
        yield said.strip()
        server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@in_a_browser
def test_the_stock_page_opens_a_run_and_brings_its_overlays(stock: str, browser: Any) -> None:
    page = Panes(browser.new_page(viewport=SIZE))
    page.page.goto(stock)
    page.page.wait_for_function("window.me_test.renderers.some((one) => one.nodesToRender.length > 0)")
    page.page.get_by_text("Add per-node data").click()
    page.page.get_by_text("Edge Parity overlays").last.click()
    page.page.get_by_role("button", name="Run", exact=True).click()
    shown = page.wait(panes=1).pane(0)
    page.keep("stock-run")
    assert shown["graph"].startswith("reauthored->tflite-xnnpack/")
    assert shown["nodes"] == tap_order(BLOCKS)
    assert set(shown["overlays"]) == set(OVERLAYS)
    assert shown["overlays"]["verdict"][FAULTY_TAP]["strValue"] == "fail"


@in_a_browser
def test_the_exports_open_by_hand_in_the_stock_page_with_their_overlays(stock: str, browser: Any, run: Path) -> None:
    folder, hop = run / FOLDER, "reauthored-to-tflite-xnnpack"
    names = [f"reauthored->tflite-xnnpack/{stage}" for stage in ("reauthored", "tflite-xnnpack")]
    overlays = [str(folder / f"{hop}.{name}.json") for name in ("excess", "verdict")]
    state = {
        "models": [
            {"url": str(folder / f"{hop}.{side}.graph.json"), "adapterId": "builtin_json"} for side in ("from", "to")
        ],
        "nodeData": overlays * 2,
        "nodeDataTargets": [name for name in names for _ in overlays],
        "uiState": {
            "paneStates": [{"selectedGraphId": name, "selectedCollectionLabel": name, "deepestExpandedGroupNodeIds": [],
                            "selectedNodeId": "", "widthFraction": 0.5, "selected": True} for name in names]
        },
    }  # fmt: skip
    page = Panes(browser.new_page(viewport=SIZE)).open_at(f"{stock.split('?')[0]}?data={quote(json.dumps(state))}")
    page.keep("stock-by-hand")
    for at, name in enumerate(names):
        shown = page.pane(at)
        assert shown["graph"] == name
        assert shown["nodes"] == tap_order(BLOCKS)
        assert set(shown["overlays"]) == {Path(overlay).name for overlay in overlays}
        assert shown["overlays"][f"{hop}.verdict.json"][FAULTY_TAP]["strValue"] == "fail"
