"""A new stage is one file and one line of the registry: the rest takes it as it is, from the run to the pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from toy_stage import FAULTY_TAP, toy
from watching import Watcher

from harness.names import stages
from harness.pipeline.options import Options
from harness.pipeline.run import run
from harness.record.record import Record, read_taps

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["faithful", "faulty", "crashing"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Record]]:
    kind = str(request.param)
    stages.register(toy(f"toy-{kind}", kind))
    try:
        options = Options("tiny_llama", miniature=True, stages=(f"toy-{kind}",), out=tmp_path_factory.mktemp("out"))
        yield (kind, *run(options, Watcher()))
    finally:
        stages.unregister(f"toy-{kind}")


def test_the_run_judges_it_by_its_hop(made: tuple[str, Path, Record]) -> None:
    kind, folder, record = made
    (hop,) = record.hops
    assert hop.name == f"hf->toy-{kind}"
    assert record.verdict == hop.verdict == ("pass" if kind == "faithful" else "fail")
    assert record.exit_code == {"faithful": 0, "faulty": 1, "crashing": 3}[kind]
    stage = next(stage for stage in record.stages if stage.name == f"toy-{kind}")
    if kind == "crashing":
        assert "the toy broke" in stage.detail
        return
    assert stage.facts["runtime"].startswith("numpy ")
    assert set(read_taps(folder)["hop"]) == {hop.name}


def test_the_first_fault_is_its_own(made: tuple[str, Path, Record]) -> None:
    kind, _, record = made
    if kind != "faulty":
        assert record.first_fault is None
        return
    assert record.first_fault is not None
    assert record.first_fault.tap == FAULTY_TAP
    assert record.first_fault.owner == "toy-faulty"
    assert [entry.hypothesis for entry in record.diagnosis][:1] == ["constant_scale"], record.unexplained


def test_every_page_shows_it(made: tuple[str, Path, Record]) -> None:
    kind, folder, _ = made
    assert f"toy-{kind}" in (folder / "report.html").read_text()
    assert f"hf-&gt;toy-{kind}" in (folder / "summary.md").read_text().replace("->", "-&gt;")
    cases = ElementTree.parse(folder / "junit.xml").iter("testcase")
    assert any(f"hf->toy-{kind}" in "".join(case.attrib.values()) for case in cases)
    if kind != "crashing":
        graph = json.loads((folder / "explorer" / f"hf-to-toy-{kind}.to.graph.json").read_text())
        assert FAULTY_TAP in json.dumps(graph)
