"""The extra `keras`: its packages join the environment, and change nothing of it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest
from paths import ROOT

pytestmark = pytest.mark.extras


def test_its_packages_import_beside_the_others() -> None:
    code = "import torch, tensorflow, keras_hub; print(keras_hub.models.GPT2CausalLM.__name__)"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={"KERAS_BACKEND": "tensorflow"}, capture_output=True, text=True, check=False
    )
    assert ended.stdout.strip().endswith("GPT2CausalLM"), ended.stderr[-500:]


def test_no_package_of_the_lock_has_another_version() -> None:
    lines = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in pinned}
    assert installed == {name: wanted.partition("+")[0] for name, wanted in pinned.items()}
