"""Serves Model Explorer's page and one view to the browsers of this machine. In: a view. Out: HTTP on 127.0.0.1.

Model Explorer's own server is not used: it reads any file for whoever reaches it, asks a package index for its newest
version, hangs on port 0 and ends the process on a busy one. This one reads no file by name: what it may hand out is
known before it starts, and it answers only whoever has the token that stands in the address it prints: other users and
other programs of this machine reach its port, and pages of other sites can send a browser there.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
import socketserver
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from harness.errors import UsageError
from harness.explore.legend import legend
from harness.explore.panes import JSON_LOADER, View
from harness.explore.web_app import INDEX, POLICY, adapted, assets, find_web_app

HOST = "127.0.0.1"
# A page elsewhere that gives its own name this address must not get at the run. Ports may differ: tunnels change them.
_OWN_NAMES = frozenset({HOST, "localhost"})
_HTML, _JSON, _TEXT = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"
# The one reader the page needs; it runs in the page itself.
_READERS = [
    {"fileExts": ["json"], "type": "adapter", "id": JSON_LOADER, "name": "JSON", "description": "Graphs as JSON"}
]
_NOTHING_NEW = {"version": "", "runningVersion": "", "releaseUrl": "", "desktopAppUrl": ""}

TOKEN = "token"
# RFC 9110, 7.2: a name or an address, and a port.
_HOST = re.compile(r"(?P<name>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

Answer = tuple[int, str, bytes]  # status, content type, body


class Site:
    """Everything that may be asked for, and the answers."""

    def __init__(self, view: View) -> None:
        folder = find_web_app()
        self._assets = assets(folder)
        index = (folder / "index.html").read_text(encoding="utf-8")
        self._index = adapted(index, legend(view.right.overlays)).encode()
        self._documents: Mapping[str, bytes] = view.documents
        self.start = f"{INDEX}?data={quote(view.state)}"
        self._calls: Mapping[str, Callable[[Mapping[str, list[str]]], Any]] = {
            "/api/v1/get_extensions": lambda _: _READERS,
            "/api/v1/check_new_version": lambda _: _NOTHING_NEW,
            "/api/v1/notify_user_provided_model_path": lambda _: {"status": "ok"},
            "/api/v1/read_text_file": self._document,
        }

    def answer(self, address: str) -> Answer:
        """The answer to a GET. address: path and query, as requested."""
        parts = urlsplit(address)
        query = parse_qs(parts.query)
        if parts.path == INDEX:
            # Without a state the page is an empty form, so it goes where it was meant to go.
            return (200, _HTML, self._index) if "data" in query else (302, _TEXT, self.start.encode())
        if parts.path in self._calls:
            return 200, _JSON, json.dumps(self._calls[parts.path](query)).encode()
        if parts.path in self._assets:
            content_type, path = self._assets[parts.path]
            return 200, content_type, path.read_bytes()
        if parts.path == "/apistream/server_director":
            return 204, _TEXT, b""  # a page that gets this does not ask again; there is nothing to be told
        return 404, _TEXT, b"not found"

    def _document(self, query: Mapping[str, list[str]]) -> dict[str, str]:
        name = query.get("path", [""])[0]
        if name not in self._documents:
            return {"error": "only the graphs and overlays of this view can be read here"}
        return {"content": self._documents[name].decode()}


class Server(ThreadingHTTPServer):
    """On loopback. Threads end with the process, whatever a browser keeps open."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    site: Site

    def __init__(self, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self.token = secrets.token_urlsafe(24)

    def serve(self, site: Site) -> None:
        """Answer until interrupted or shut down; who came before waits until now."""
        self.site = site
        self.serve_forever(poll_interval=0.1)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the resolver for this machine's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is not news."""

    @property
    def url(self) -> str:
        """Where it begins. The token in it becomes a cookie, so that it stands in no further address."""
        return f"http://{HOST}:{self.server_port}{INDEX}?{TOKEN}={self.token}"

    @property
    def cookie(self) -> str:
        """Its name: a browser sends the cookies of all servers of this machine, whatever their port."""
        return f"edge-parity-{self.server_port}"

    def is_token(self, told: str) -> bool:
        return secrets.compare_digest(told.encode(errors="replace"), self.token.encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        hosts = [_HOST.fullmatch(host.strip()) for host in self.headers.get_all("Host", [])]
        try:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
        except ValueError:
            parts, hosts = None, []
        if parts is None or len(hosts) != 1 or hosts[0] is None:
            self._send((400, _TEXT, b"bad request"))
        elif hosts[0]["name"].lower() not in _OWN_NAMES:
            self._send((403, _TEXT, f"open {HOST}:{self.server.server_port} instead".encode()))
        elif parts.path == INDEX and self.server.is_token(query.get(TOKEN, [""])[-1]):
            self._send((302, _TEXT, self.server.site.start.encode()), self.server.token)
        elif not self._has_cookie():
            self._send((403, _TEXT, b"open the whole address that 'edge-parity explore' printed"))
        else:
            self._send(self.server.site.answer(self.path))

    def _has_cookie(self) -> bool:
        pairs = [pair.strip().partition("=") for line in self.headers.get_all("Cookie", []) for pair in line.split(";")]
        return any(name == self.server.cookie and self.server.is_token(value) for name, _, value in pairs)

    def _send(self, answer: Answer, token: str = "") -> None:
        """token: becomes the browser's cookie, which no script reads and no other site makes it send."""
        status, content_type, body = answer
        self.send_response(status)
        if token:
            self.send_header("Set-Cookie", f"{self.server.cookie}={token}; Path=/; HttpOnly; SameSite=Strict")
        if status == 302:
            self.send_header("Location", body.decode())
            body = b""
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store" if content_type in (_HTML, _JSON) else "max-age=600")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Requests are not shown."""


def open_server(port: int | None) -> Server:
    """A server that listens. port: None for a free one. Raises UsageError for a port that cannot be had."""
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"--port {port} is not a port; give one from 1 to 65535, or none for a free one")
    try:
        return Server(port or 0)
    except OSError as error:
        reason = {errno.EADDRINUSE: "is busy", errno.EACCES: "is not allowed for this user"}.get(error.errno or 0)
        if reason is None or port is None:
            raise UsageError(f"no server on {HOST}: {error.strerror}") from None
        raise UsageError(f"--port {port} {reason}; give another, or none for a free one") from None
