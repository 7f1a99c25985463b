"""What Model Explorer is given of a made-up run."""

from __future__ import annotations

from record_factory import make_run

from harness.explore.panes import View
from harness.explore.tap_level import choose_hop, tap_view

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
