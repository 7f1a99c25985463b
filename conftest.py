"""Options of the conversion gate, `pytest suites/`. They stand here so that pytest knows them wherever it is started;
what they mean is in suites/conftest.py.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "conversion gate (pytest suites/)")
    group.addoption(
        "--model",
        action="append",
        default=[],
        metavar="NAME_OR_FILE",
        help="gate this model only: a name from 'edge-parity list', file.py or file.py:NAME; may be repeated",
    )
    group.addoption("--miniature", action="store_true", help="gate miniatures: small seeded random weights")
    group.addoption("--parity-out", metavar="DIR", help="folder of the runs (default: reports)")
