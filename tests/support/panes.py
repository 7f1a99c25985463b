"""Model Explorer's two panes in a real headless Chromium: what they show, and where."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from browser import Opened
from paths import ROOT

SIZE = {"width": 1000, "height": 640}  # what is drawn by software takes its time
# Model Explorer puts its renderers into `me_test`, where it finds the list. `frames_drawn`: how often a pane was drawn,
# and when the last one was on the page, in milliseconds since it was asked for; `waiting` while it is not.
_HOOK = """{
    window.me_test = {renderers: []};
    const drawn = window.frames_drawn = {count: 0, last: 0, waiting: false};
    const clear = WebGL2RenderingContext.prototype.clear;
    WebGL2RenderingContext.prototype.clear = function (...given) {
        drawn.count += 1;
        if (!drawn.waiting) {
            drawn.waiting = true;
            requestAnimationFrame(() => setTimeout(() => {
                drawn.waiting = false;
                drawn.last = performance.now();
            }));
        }
        return clear.apply(this, given);
    };
}"""
_STILL = "(quiet) => !window.frames_drawn.waiting && performance.now() - window.frames_drawn.last > quiet"
_LAST = "window.frames_drawn.last"
_DRAWN = """(panes) => {
    const all = window.me_test.renderers;
    return all.length === panes && all.every((one) => {
        const run = one.nodeDataProviderExtensionService.getSelectedRunForModelGraph(one.paneId, one.curModelGraph);
        return one.nodesToRender.length > 0 && run && run.done && run.results && run.results[one.curModelGraph.id]
            && !one.nodeDataProviderExtensionService.remoteSourceLoading();
    });
}"""
_PANE = """(at) => {
    const one = window.me_test.renderers[at], graph = one.curModelGraph, data = one.nodeDataProviderExtensionService;
    return {
        graph: graph.id,
        nodes: graph.nodes.filter((node) => node.nodeType === 0).map((node) => node.id),
        open: graph.nodes.filter((node) => node.expanded).map((node) => node.id.replace("___group___", "")),
        drawn: one.nodesToRender.map((item) => item.node.id),
        selected: one.selectedNodeId,
        shown: data.getSelectedRunForModelGraph(one.paneId, graph).runName,
        overlays: Object.fromEntries(
            data.getRunsForModelGraph(graph).map((run) => [run.runName, run.results[graph.id]])),
    };
}"""
# The middle of a node on the page, and whether nothing lies over it.
_PLACE = """([at, id]) => {
    const one = window.me_test.renderers[at], camera = one.webglRendererThreejsService;
    const box = one.canvas.nativeElement.getBoundingClientRect();
    const node = one.curModelGraph.nodesById[id], area = one.getNodeRect(node);
    const inside = camera.convertScenePosToScreen(area.x + area.width / 2, area.y + area.height / 2);
    const x = box.x + inside.x, y = box.y + inside.y, top = document.elementFromPoint(x, y);
    return {x, y, seen: !!top && one.container.nativeElement.contains(top)};
}"""

# How often a pane that is asked to draw itself so often does so, at once and within two frames. grow: its size changes.
_ASKED = """async ([at, times, grow]) => {
    const scene = window.me_test.renderers[at].webglRendererThreejsService, canvas = scene.renderer.domElement;
    const before = window.frames_drawn.count;
    if (grow) scene.renderer.setSize(canvas.width + 1, canvas.height, false);
    for (let asked = 0; asked < times; asked++) scene.render();
    const atOnce = window.frames_drawn.count - before;
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    return [atOnce, window.frames_drawn.count - before];
}"""
_UNDER_MOUSE = "(at) => window.me_test.renderers[at].hoveredNodeId"
_QUIET = 1500  # milliseconds without a drawing
_PATIENCE = 240.0  # seconds, for a machine that draws by software and is busy


@contextmanager
def exploring(run: Path | str, *options: str) -> Iterator[str]:
    """`edge-parity explore RUN` as a person starts it; its address. Ends with it."""
    words = [sys.executable, "-m", "harness.commands.main", "explore", str(run), "--no-browser", *options]
    running = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        said = [running.stdout.readline(), running.stdout.readline()]
        assert said[1].startswith("http://"), f"{words} said {said}"
        yield said[1].split()[0]
    finally:
        running.terminate()
        running.wait(timeout=30)


class Panes(Opened):
    """The page of `edge-parity explore`, opened until both graphs are drawn with their overlays."""

    def __init__(self, page: Any) -> None:
        super().__init__(page)
        page.add_init_script(_HOOK)

    def open_at(self, url: str) -> Panes:
        self.page.goto(url)
        return self.wait()

    def wait(self, panes: int = 2) -> Panes:
        """Until all is drawn."""
        self.until(lambda: self.page.evaluate(_DRAWN, panes), "drawn")
        return self

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Not Playwright's own waiting, which evaluates strings in the page: its policy forbids that."""
        end = time.monotonic() + _PATIENCE
        while not done():
            assert time.monotonic() < end, f"not {what} after {_PATIENCE} s; the page said {self.said}"
            self.page.wait_for_timeout(50)

    def settle(self) -> float:
        """Until nothing moves: nodes glide into their places, and sizes are measured once more.

        Returns seconds from asking for the page to its last drawing.
        """
        self.until(lambda: self.page.evaluate(_STILL, _QUIET), "still")
        return float(self.page.evaluate(_LAST)) / 1e3

    def pane(self, at: int) -> dict[str, Any]:
        """What the left (0) or right (1) pane holds and shows."""
        return dict(self.page.evaluate(_PANE, at))

    def ask_to_draw(self, at: int, times: int, grow: bool = False) -> list[int]:
        """How often the pane draws itself when it is asked so often: at once, and with the two frames after it."""
        return list(self.page.evaluate(_ASKED, [at, times, grow]))

    def place(self, at: int, node: str) -> dict[str, Any]:
        return dict(self.page.evaluate(_PLACE, [at, node]))

    def click(self, at: int, node: str) -> None:
        """As a person does: the page selects what it has found under the mouse."""
        where = self.place(at, node)
        assert where["seen"], f"{node} is not in view"
        self.page.mouse.move(where["x"] - 3, where["y"])
        self.page.mouse.move(where["x"], where["y"])
        self.until(lambda: self.page.evaluate(_UNDER_MOUSE, at) == node, f"under the mouse: {node}")
        self.page.mouse.click(where["x"], where["y"])

    @property
    def errors(self) -> list[str]:
        """What the console said, but for the software renderer's remarks on its own speed."""
        return [text for text in self.said if "GL Driver Message" not in text]

    @property
    def hosts(self) -> set[str | None]:
        """Whom the page asked for anything."""
        return {urlsplit(url).hostname for url in self.asked if not url.startswith(("data:", "blob:"))}
