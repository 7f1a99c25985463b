"""The command line in a process of its own, and what it left behind."""

from __future__ import annotations

import os

from paths import ROOT

TINY_LLAMA = ROOT / "models" / "tiny_llama.py"
SPEC = TINY_LLAMA.read_text(encoding="utf-8")
# Python itself leaves compiled code beside a declaration, which these tests would take for something of ours.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "PYTHONDONTWRITEBYTECODE": "1",
}
