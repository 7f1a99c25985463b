"""Settings of all tests."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A deadline is a timed assertion: a busy machine would fail it.
settings.register_profile("edge-parity", deadline=None)
settings.load_profile("edge-parity")


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
