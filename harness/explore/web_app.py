"""Model Explorer's page, adapted: without what it would fetch from elsewhere, and drawing less often.

In: its package. Out: its files by address.

Taken as files: importing the package imports PyTorch, and its own server reads any file for whoever asks.
"""

from __future__ import annotations

import importlib.util
import mimetypes
import re
from pathlib import Path

from harness.errors import UsageError

PACKAGE = "model_explorer"
INDEX = "/"
# A second fence: what a later version of the page asked for would be refused by the browser.
POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; base-uri 'self'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_REDRAW = "redraw.js"
_OUTSIDE_LINK = re.compile(r"<link\b[^>]*\bhref=[\"']?https?://[^>]*>")
_OUTSIDE_FONT = re.compile(r"@font-face\s*\{[^}]*url\([\"']?https?://[^}]*\}")
# The style sheet is switched on by a script in its tag, which the policy forbids.
_LATE_STYLE = re.compile(r"\s+media=\"print\"\s+onload=\"this\.media='all'\"")


def find_web_app() -> Path:
    """The folder of the page. Raises UsageError where Model Explorer is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    folder = Path(found.origin).parent / "web_app" if found and found.origin else None
    if folder is None or not (folder / "index.html").is_file():
        raise UsageError(
            "Model Explorer is not installed; 'make venv' brings it, elsewhere pip install 'edge-parity[explorer]'"
        )
    return folder


def assets(folder: Path) -> dict[str, tuple[str, Path]]:
    """Address -> (content type, file), for every file of the page but its index, and for our own script."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "index.html")
    found = {f"/{path.relative_to(folder).as_posix()}": path for path in files}
    found[f"/{_REDRAW}"] = Path(__file__).with_name(_REDRAW)
    return {address: (_content_type(path), path) for address, path in found.items()}


def adapted(index: str, legend: str) -> str:
    """The page's HTML, offline, with the legend, and with our own script before all others.

    It must be there when the first pane is made.
    """
    with_script = offline(index).replace("<head>", f'<head><script src="/{_REDRAW}"></script>', 1)
    return with_script.replace("</body>", f"{legend}</body>", 1)


def offline(index: str) -> str:
    """The page's HTML with no link and no font that lies outside.

    The fonts are for letters beyond Latin; the system's take their place.
    """
    index = _OUTSIDE_FONT.sub("", _OUTSIDE_LINK.sub("", index))
    return _LATE_STYLE.sub("", index)


def _content_type(path: Path) -> str:
    """Not the system's table alone: a module script of another type does not run."""
    known = {".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".woff2": "font/woff2"}
    return known.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
