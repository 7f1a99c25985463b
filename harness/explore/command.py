"""`edge-parity explore`: a hop of a run in Model Explorer, two panes, at the first fault.

In: what the command line asked for. Out: a page on loopback until Ctrl-C. Graphs of operators are written to the run.
"""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.explore.panes import View
from harness.explore.server import Server, Site, open_server
from harness.explore.tap_level import choose_hop, tap_view
from harness.explore.web_app import find_web_app
from harness.processes.scheduler import Watcher
from harness.record.record import read_run

LEVELS = ("tap", "op")
Progress = AbstractContextManager[Watcher]


@dataclass(frozen=True)
class ExploreOptions:
    """folder: the run's. hop: "A->B"; None for the one that the run's first fault is on. port: None for a free one.

    level: what a node is, one of LEVELS. spec: the model's declaration, where the run's own may not be run.
    """

    folder: Path
    hop: str | None = None
    level: str = "tap"
    port: int | None = None
    browser: bool = True
    spec: str | None = None


def explore(options: ExploreOptions, say: Callable[[str], None], progress: Callable[[], Progress]) -> None:
    """Serve a hop of a run until interrupted.

    Raises UsageError for a run without that hop, and as `serve` does.
    """
    serve(lambda: _view(options, progress), options.port, options.browser, say)


def serve(make: Callable[[], View], port: int | None, browser: bool, say: Callable[[str], None]) -> None:
    """Serve what is made, until interrupted. say: shows a line to the person who waits.

    Raises UsageError for a port that cannot be had, or Model Explorer missing.
    """
    find_web_app()  # what is missing is said before graphs are made, as is a port that is taken
    with open_server(port) as server:
        view = make()
        site = Site(view)
        try:
            say(view.words)
            say(f"{server.url} (Ctrl-C ends it)")
            if browser:
                _open_browser(server, say)
            server.serve(site)
        except KeyboardInterrupt:
            pass  # the way this command ends


def _view(options: ExploreOptions, progress: Callable[[], Progress]) -> View:
    record, frame = read_run(options.folder)
    hop = choose_hop(record, frame, options.hop)
    if options.level == "tap":
        return tap_view(record, frame, hop)
    if options.level != "op":
        raise UsageError(f"--level {options.level} is not a level; give one of {', '.join(LEVELS)}")
    from harness.explore.op_level import op_view
    from harness.system.temporary import use_own_temporary_folder

    use_own_temporary_folder()
    with progress() as watcher:
        return op_view(options.folder, record, frame, hop, watcher, options.spec)


def _open_browser(server: Server, say: Callable[[str], None]) -> None:
    """In a thread: a browser may take seconds to say that it opened, and wants to be served meanwhile."""
    if not _has_display():
        say("There is no display here: open the address yourself, or through a tunnel (ssh -L).")
        return
    threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()


def _has_display() -> bool:
    """Without one, Python would start a text browser in this terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
