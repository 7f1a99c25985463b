"""The server behind `edge-parity explore` gives its view to whoever has the token, and nothing else to anybody."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from views import view_of

from harness.explore.server import HOST, Server, Site, open_server


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


def test_our_own_script_comes_before_those_that_make_the_panes(server: Server) -> None:
    _, page = get(server, get(server, "/")[0].headers["Location"])
    scripts = re.findall(r"<script\b[^>]*\bsrc=\"([^\"]+)\"([^>]*)>", page)
    assert scripts[0] == ("/redraw.js", "")  # a module, or one that is deferred, would wait
    assert len(scripts) == 3
    response, text = get(server, "/redraw.js")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/javascript"
    assert "webglRendererThreejsService" in text


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
