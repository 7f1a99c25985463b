"""Settings of all tests."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline is a timed assertion: a busy machine would fail it.
settings.register_profile("edge-parity", deadline=None)
settings.load_profile("edge-parity")

_MARKS_OF_A_FILE = re.compile(r"^pytestmark = .*", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file whose tests are all left out by `-m "not ..."` is not imported: the frameworks take seconds."""
    left_out = set(re.findall(r"\bnot (\w+)", config.option.markexpr))
    if not left_out or collection_path.suffix != ".py":
        return None
    found = _MARKS_OF_A_FILE.search(collection_path.read_text(encoding="utf-8"))
    return True if found and left_out & set(re.findall(r"\bmark\.(\w+)", found[0])) else None


@pytest.fixture(autouse=True)
def temporary_files_go_where_they_went() -> Iterator[None]:
    """A command that runs in this process moves its temporary files into a folder that goes with the command."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    yield
    tempfile.tempdir = before
    if variable is None:
        os.environ.pop("TMPDIR", None)
    else:
        os.environ["TMPDIR"] = variable
