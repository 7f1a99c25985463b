"""What `edge-parity explore` promises without a browser: the right hop, the right opening, nothing but loopback."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from record_factory import BLOCKS, CRASHED, FAULTY_TAP, HOSTILE, KINDS, NAN_TAP, make_run
from typer.testing import CliRunner

from harness.commands.main import app
from harness.errors import UsageError
from harness.explore.legend import legend
from harness.explore.op_files import ALONE, PARTNER
from harness.explore.panes import View
from harness.explore.server import HOST, Server, Site, open_server
from harness.explore.tap_level import choose_hop, tap_view, where_to_open
from harness.explore.web_app import adapted, find_web_app
from harness.names.taps import tap_order
from harness.record.record import LowestSnr, write_record
from harness.render.explorer import OVERLAYS

FIRST = "hf->reauthored"
HOP_OF = {
    "pass": FIRST,
    "fail": FIRST,
    "hostile": FIRST,
    "crash": FIRST,
    "kernel": "reauthored->tflite-xnnpack",
    "nan": "reauthored->tflite-builtin",
}


def view_of(kind: str, hop: str | None = None) -> View:
    record, frame = make_run(kind)
    return tap_view(record, frame, choose_hop(record, frame, hop))


def content(view: View, name: str) -> Any:
    return json.loads(view.documents[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_hop_of_the_first_fault_is_opened_else_the_first_one_with_taps(kind: str) -> None:
    assert choose_hop(*make_run(kind)).name == HOP_OF[kind]


def test_a_hop_that_fails_without_a_fault_comes_before_one_that_passes() -> None:
    record, frame = make_run("kernel")
    assert choose_hop(record.model_copy(update={"faults": []}), frame).name == HOP_OF["kernel"]


def test_a_hop_that_is_asked_for_is_opened() -> None:
    assert choose_hop(*make_run("fail"), HOP_OF["nan"]).name == HOP_OF["nan"]


def test_an_unknown_hop_is_told_which_ones_there_are() -> None:
    with pytest.raises(UsageError, match=r"--hop hf- is not a hop of run .*hf->reauthored, .*in quotes"):
        choose_hop(*make_run("pass"), "hf-")


def test_a_hop_whose_stage_crashed_says_so_and_names_the_others() -> None:
    with pytest.raises(UsageError, match=f"nothing was compared.*stage {CRASHED} crashed.*give another: {FIRST}"):
        choose_hop(*make_run("crash"), f"reauthored->{CRASHED}")


def test_a_run_that_compared_nothing_has_no_graph() -> None:
    record, frame = make_run("crash")
    with pytest.raises(UsageError, match=r"compared no tap on any hop .stage tflite-xnnpack crashed"):
        choose_hop(record, frame[:0])


@pytest.mark.parametrize("kind", KINDS)
def test_reference_and_candidate_have_the_same_nodes_and_every_overlay(kind: str) -> None:
    view, (source, target) = view_of(kind), HOP_OF[kind].split("->")
    for side, stage in (("left", source), ("right", target)):
        (graph,) = content(view, f"{side}/graph.json")["graphs"]
        assert graph["id"] == stage
        assert [node["id"] for node in graph["nodes"]] == tap_order(BLOCKS)
        for overlay in OVERLAYS:
            assert content(view, f"{side}/{overlay}")[stage]["name"] == overlay


@pytest.mark.parametrize(
    ("kind", "node", "block"),
    [("fail", FAULTY_TAP, 2), ("kernel", FAULTY_TAP, 2), ("nan", NAN_TAP, 3), ("hostile", FAULTY_TAP, 2)],
)
def test_both_panes_open_at_the_first_fault_with_its_block_unfolded(kind: str, node: str, block: int) -> None:
    view = view_of(kind)
    for pane in (view.left, view.right):
        assert pane.node == node
        assert set(pane.layers) == {f"block_{block}", f"block_{block}/attn", f"block_{block}/mlp"}
    assert f"at its first fault {node}" in view.words


def test_a_hop_that_passes_opens_at_the_tap_nearest_to_its_limit() -> None:
    record, frame = make_run("pass")
    hop = record.hops[0]
    worst = frame[frame["hop"] == hop.name].copy()
    worst["used"] = (
        worst[["excess", "position_excess"]]
        .div(worst[["excess_limit", "position_excess_limit"]].to_numpy())
        .max(axis=1)
    )
    assert where_to_open(record, hop)[1] == worst.loc[worst["used"].idxmax(), "tap"]
    assert "nearest to its limit" in view_of("pass").words


def test_a_fault_outside_the_blocks_opens_no_block() -> None:
    record, frame = make_run("fail")
    fault = record.first_fault.model_copy(update={"tap": "logits", "block": None})
    view = tap_view(record.model_copy(update={"faults": [fault]}), frame, record.hops[0])
    assert (view.left.node, view.left.layers) == ("logits", ())


def test_the_overlay_shown_first_points_at_the_fault() -> None:
    assert [view_of(kind).right.shown for kind in ("pass", "fail", "nan")] == ["limit_used", "excess", "verdict"]


def test_local_excess_is_shown_first_where_it_was_judged() -> None:
    record, frame = make_run("fail")
    frame = frame.copy()
    mine = (frame["hop"] == FIRST) & (frame["tap"] == FAULTY_TAP) & (frame["input"] == "long")
    frame.loc[mine, ["local_excess", "local_excess_limit"]] = 250.0, 4.0
    fault = record.first_fault.model_copy(update={"local_excess": 250.0})
    view = tap_view(record.model_copy(update={"faults": [fault]}), frame, record.hops[0])
    assert view.left.shown == view.right.shown == "local_excess"
    assert content(view, "right/local_excess")["reauthored"]["results"][FAULTY_TAP]["value"] == 250.0


def test_two_sets_of_kernels_are_shown_by_their_snr() -> None:
    record, frame = make_run("pass")
    stages = ("tflite-xnnpack[dynamic_int8]", "tflite-builtin[dynamic_int8]")
    lowest = LowestSnr(tap="block.3.out", input="padded", snr_db=31.0)
    hop = record.hops[0].model_copy(update={"from_": stages[0], "to": stages[1], "lowest_snr": lowest})
    frame = frame[frame["hop"] == FIRST].assign(hop=hop.name)
    frame.loc[(frame["tap"] == lowest.tap) & (frame["input"] == lowest.input), "snr_db"] = lowest.snr_db
    view = tap_view(record.model_copy(update={"hops": [hop]}), frame, hop)
    assert (view.left.shown, view.left.node) == ("snr_db", lowest.tap)
    assert content(view, "left/snr_db")[hop.from_]["results"][lowest.tap]["value"] == lowest.snr_db


def test_the_page_opens_with_two_synced_panes_and_the_shown_overlay_last() -> None:
    view = view_of("nan")
    state = json.loads(view.state)
    assert state["sync"] == {"mode": "match_node_id"}
    assert {model["url"] for model in state["models"]} | set(state["nodeData"]) == set(view.documents)
    bound = list(zip(state["nodeData"], state["nodeDataTargets"], strict=True))
    for side, pane in zip(("left", "right"), state["uiState"]["paneStates"], strict=True):
        label = content(view, f"{side}/graph.json")["label"]
        assert pane["selectedCollectionLabel"] == label
        mine = [name for name, target in bound if target == label]
        assert len(mine) == len(OVERLAYS)
        assert mine[-1] == f"{side}/verdict"


def test_the_page_asks_nobody_else_for_fonts_or_anything() -> None:
    before = (find_web_app() / "index.html").read_text(encoding="utf-8")
    after = adapted(before, legend(OVERLAYS))
    outside = re.compile(r"(?:(?:href|src)=[\"']?|url\([\"']?|@import\s*[\"']?)(?:https?:)?//")
    assert outside.search(before)
    assert not outside.search(after)
    assert after.count("@font-face") == before.count("@font-face") - before.count("url(https://") > 0
    assert not re.search(r"<[^>]*\son[a-z]+=", after)  # the policy runs no script in a tag


def test_our_own_script_comes_before_those_that_make_the_panes(server: Server) -> None:
    _, page = get(server, get(server, "/")[0].headers["Location"])
    scripts = re.findall(r"<script\b[^>]*\bsrc=\"([^\"]+)\"([^>]*)>", page)
    assert scripts[0] == ("/redraw.js", "")  # a module, or one that is deferred, would wait
    assert len(scripts) == 3
    response, text = get(server, "/redraw.js")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/javascript"
    assert "webglRendererThreejsService" in text


@pytest.mark.parametrize("kind", ["fail", "nan"])
def test_every_colour_of_an_overlay_stands_in_the_legend(kind: str) -> None:
    shown = legend(OVERLAYS)
    for name in OVERLAYS:
        (one, *_) = content(view_of(kind), f"right/{name}").values()
        used = {
            entry["bgColor"] for entry in [*one["results"].values(), *one.get("thresholds", [])] if "bgColor" in entry
        }
        assert used
        assert {colour for colour in used if f"background:{colour}" not in shown} == set()
        assert name in shown


def test_the_legend_has_the_partners_of_operators_only_where_there_are_operators() -> None:
    assert "no partner" not in legend(OVERLAYS)
    assert f"background:{ALONE}" in legend([*OVERLAYS, PARTNER])


@pytest.fixture
def server() -> Iterator[Server]:
    with open_server(None) as running:
        thread = threading.Thread(target=running.serve, args=(Site(view_of("fail")),))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server: Server, address: str, **headers: str) -> tuple[http.client.HTTPResponse, str]:
    """As a browser that has opened the address that the server prints."""
    headers = {"Cookie": f"{server.cookie}={server.token}", **headers}
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=10)
    connection.request("GET", address, headers=headers)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response, body


def test_the_short_address_leads_to_the_view(server: Server) -> None:
    response, _ = get(server, "/")
    there = response.headers["Location"]
    assert response.status == 302
    assert json.loads(parse_qs(urlsplit(there).query)["data"][0])["sync"]
    page, text = get(server, there)
    assert page.status == 200
    assert "<app-root>" in text


def test_only_the_documents_of_the_view_can_be_read(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('"secret"', encoding="utf-8")
    for path in (str(secret), "/etc/passwd", "left/../../../etc/passwd", "", "left/graph.json/.."):
        _, body = get(server, f"/api/v1/read_text_file?path={quote(path)}")
        assert list(json.loads(body)) == ["error"]
    for path in ("/../server.py", "/%2e%2e/server.py", "/static_files/../../server.py", f"/{secret}", "/index.html"):
        assert get(server, path)[0].status == 404
    _, body = get(server, "/api/v1/read_text_file?path=left/graph.json")
    assert json.loads(json.loads(body)["content"])["graphs"][0]["id"] == "hf"


def test_a_page_elsewhere_gets_nothing(server: Server) -> None:
    """DNS rebinding: another name that leads here. Frames and reading across origins: what the browser is told."""
    assert get(server, "/", Host="evil.example")[0].status == 403
    assert get(server, "/", Host=f"evil.example:{server.server_port}")[0].status == 403
    assert get(server, "/", Host="localhost:9000")[0].status == 302
    headers = get(server, "/check_health")[0].headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_nothing_can_be_sent_to_it(server: Server) -> None:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=10)
    connection.request("POST", "/apipost/v1/upload", body=b"x")
    assert connection.getresponse().status == 501
    connection.close()


def test_it_listens_on_loopback_alone(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.url.startswith(f"http://127.0.0.1:{server.server_port}/?token=")


def raw(server: Server, *lines: str) -> int:
    """The status of an answer to a request that no library would send."""
    with socket.create_connection((HOST, server.server_port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return int(connection.recv(100).split()[1])


PLACES = ("/", "/redraw.js", "/api/v1/read_text_file?path=left/graph.json", "/api/v1/get_extensions", "/?data=x", "/no")


@pytest.mark.parametrize("place", PLACES)
def test_whoever_has_no_token_gets_nothing(server: Server, place: str) -> None:
    with open_server(None) as other:
        others = {"Cookie": f"{server.cookie}={other.token}"}
    wrong: list[dict[str, str]] = [
        {"Cookie": ""},
        {"Cookie": f"{server.cookie}="},
        {"Cookie": f"{server.cookie}={server.token[:-1]}"},
        {"Cookie": f"x{server.cookie}={server.token}"},
        {"Cookie": f"{server.cookie}=\xe9"},
        {"Referer": server.url, "Cookie": ""},
        others,
    ]
    for headers in wrong:
        response, body = get(server, place, **headers)
        assert response.status == 403
        assert server.token not in body
        assert "Set-Cookie" not in response.headers
    assert get(server, f"{place}{'&' if '?' in place else '?'}token=wrong", Cookie="")[0].status == 403


def test_the_token_of_the_address_becomes_a_strict_cookie_and_leaves_the_address(server: Server) -> None:
    response, _ = get(server, "/?" + server.url.partition("/?")[2], Cookie="")
    cookie = response.headers["Set-Cookie"]
    assert response.status == 302
    assert {part.strip() for part in cookie.split(";")[1:]} == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert server.token not in response.headers["Location"]
    assert get(server, response.headers["Location"], Cookie=cookie.split(";")[0])[0].status == 200
    assert get(server, "/", Cookie=f"a=b; {cookie.split(';')[0]}; c=d")[0].status == 302
    with open_server(None) as other:
        assert other.token != server.token
        assert other.cookie != server.cookie  # of two at once, each keeps its own


@pytest.mark.parametrize(
    "host", ["", "[", "[::1", "a b", "127.0.0.1:port", "127.0.0.1:", "x@127.0.0.1", "127.0.0.1/..", "::1", "\xe9"]
)
def test_a_host_that_is_none_is_a_bad_request(server: Server, host: str) -> None:
    cookie = f"Cookie: {server.cookie}={server.token}"
    assert raw(server, "GET / HTTP/1.1", f"Host: {host}", cookie) == 400


def test_no_host_two_hosts_and_an_address_that_is_none_are_bad_requests_too(server: Server) -> None:
    cookie, host = f"Cookie: {server.cookie}={server.token}", f"Host: {HOST}"
    assert raw(server, "GET / HTTP/1.1", cookie) == 400
    assert raw(server, "GET / HTTP/1.0", cookie) == 400
    assert raw(server, "GET / HTTP/1.1", host, host, cookie) == 400
    assert raw(server, "GET http://[/ HTTP/1.1", host, cookie) == 400
    assert raw(server, "GET / HTTP/1.1", f"{host}:{server.server_port}", cookie) == 302


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


def test_a_hostile_name_stays_one_line_on_the_terminal() -> None:
    words = view_of("hostile").words
    assert HOSTILE[:20] in words
    assert "\x1b" not in words
    assert "\n" not in words
