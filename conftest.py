"""Options of the conversion gate, `pytest suites/`, and the miniature that slow tests share.

The options stand here so that pytest knows them wherever it is started; what they mean is in suites/conftest.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.jobs.reporter import Silent
from harness.store.cache import Cache
from harness.store.flex import FLEX, INSTALL, interpreter
from harness.system.extras import KERAS, why_not

Prepare = Callable[..., dict[str, Any]]
REQUIRED = "EDGE_PARITY_NEEDS_EXTRAS"  # set by `make test-extras`
TINY_LLAMA = Path(__file__).parent / "models" / "tiny_llama.py"


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
    group.addoption(
        "--quantize",
        metavar="RECIPE,...",
        help="gate quantised files too, by these recipes, as 'edge-parity run' takes them; with --model or --miniature",
    )
    group.addoption(
        "--decode",
        type=int,
        default=16,
        metavar="N",
        help="tokens that every stage decodes step by step, as 'edge-parity run --decode'; 0: none (default: 16)",
    )
    group.addoption("--parity-out", metavar="DIR", help="folder of the runs (default: reports)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of an extra is skipped where its packages are missing; under `make test-extras` it fails there."""
    for mark in item.iter_markers("extras"):
        why = _why_not(mark.args[0] if mark.args else KERAS)
        if why and os.environ.get(REQUIRED):
            pytest.fail(why, pytrace=False)
        if why:
            pytest.skip(why)


def _why_not(extra: str) -> str:
    """What is missing and what brings it; the environment with Flex is no extra, and is asked for as one."""
    if extra != FLEX:
        return why_not(extra)
    return "" if interpreter(Cache.standard()) else f"there is no environment with Flex: run '{INSTALL}'"


@pytest.fixture(scope="session")
def prepare() -> Prepare:
    """What a run does before its first stage, in this process, so that the frameworks are imported once for all."""
    from harness.pipeline import prepare as stage
    from harness.spec.find import find_spec
    from harness.store.cache import Cache

    def call(file: Path, **options: Any) -> dict[str, Any]:
        ref = find_spec(str(file))
        request = {"spec_file": str(ref.file), "spec_variable": ref.variable, "cache_root": str(Cache.standard().root)}
        return stage.prepare(request | options, Silent())

    return call


@pytest.fixture(scope="session")
def miniature(prepare: Prepare) -> dict[str, Any]:
    """TinyLlama's miniature, prepared."""
    return prepare(TINY_LLAMA)


@pytest.fixture(scope="session")
def shipped(miniature: dict[str, Any]) -> Path:
    """Its flatbuffer; from the cache, or converted now."""
    from harness.pipeline.flatbuffers import convert_model
    from harness.store.cache import Cache

    payload = {
        "prepared": miniature,
        "cache_root": str(Cache.standard().root),
        "spec_file": str(TINY_LLAMA),
        "spec_variable": "TINY_LLAMA",
    }
    return Path(convert_model(payload, Silent())["flatbuffer"])
