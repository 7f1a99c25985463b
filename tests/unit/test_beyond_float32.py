"""A tap that float32 cannot compute: all renderers show the noise floor, and no excess that is within its limit."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from record_factory import make_run
from rich.console import Console

from harness.explain.task import explain_task
from harness.judge.rules import floor_alone
from harness.judge.shares import share
from harness.locate.beyond_float32 import beyond_float32
from harness.locate.owners import ownership
from harness.pipeline.operators import descent_tasks
from harness.record.faults import BrokenFloor
from harness.record.record import Fault, Record
from harness.record.tap_row import TapRow, rows_in, taps_frame
from harness.render.github import workflow_commands
from harness.render.html import write_report
from harness.render.markdown import summary
from harness.render.numbers import nearest_figure
from harness.render.sentences import headline
from harness.render.terminal import print_summary

TAP, HOP, INPUT = "block.1.attn.out", "hf->reauthored", "long"
WHY = "noise_floor 0.5 > 0.001"
REASON = "the same model in float32 and float64, differ there by 0.5 relative (limit 0.001)"


@pytest.fixture
def run() -> tuple[Record, pd.DataFrame]:
    """A failing run whose one fault is a tap where the noise floor alone is past its limit."""
    record, frame = make_run("fail")
    frame = frame.copy()
    at = (frame["tap"] == TAP) & (frame["hop"] == HOP) & (frame["input"] == INPUT)
    assert at.sum() == 1
    frame.loc[at, ["verdict", "why", "broken"]] = ["fail", WHY, "noise_floor"]
    frame.loc[at, ["noise_floor", "noise_floor_limit", "excess", "position_excess"]] = [0.5, 1e-3, 1.0, 1.0]
    fault = Fault(
        hop=HOP,
        tap=TAP,
        block=1,
        input=INPUT,
        modules={},
        excess=1.0,
        position_excess=1.0,
        local_excess=1.0,
        reason=WHY,
        broken=["noise_floor"],
        floor=BrokenFloor(value=0.5, limit=1e-3),
    )
    whose = ownership(fault, [fault], [], {}, beyond_float32=beyond_float32(fault, frame))
    fault = fault.model_copy(update={"owner": whose.owner, "evidence": list(whose.evidence)})
    changed = {"faults": [fault], "diagnosis": [], "findings": []}
    return record.model_copy(update=changed), frame


def row(frame: pd.DataFrame) -> TapRow:
    (found,) = rows_in(frame[(frame["tap"] == TAP) & (frame["hop"] == HOP) & (frame["input"] == INPUT)])
    return found


def test_the_limit_that_a_tap_uses_up_is_the_noise_floors(run: tuple[Record, pd.DataFrame]) -> None:
    failing = row(run[1])
    assert share(failing) == pytest.approx(500)
    assert nearest_figure(failing) == "noise floor 0.500 of 1.00e-03"
    assert share(replace(failing, verdict="pass", broken="")) == pytest.approx(0.25)
    assert share(replace(failing, broken="excess, noise_floor", excess=8.0)) == pytest.approx(2)


@pytest.mark.parametrize("broken", ["", None, float("nan"), "noise_floor, excess", "excess"])
def test_a_tap_that_breaks_another_limit_or_none_breaks_not_the_floors_alone(broken: object) -> None:
    own = TapRow(model="m", input=INPUT, hop=HOP, tap=TAP, block=1, order=0, broken="noise_floor")
    own = replace(own, noise_floor=0.0012, noise_floor_limit=0.00001)
    assert floor_alone(own) == BrokenFloor(value=0.0012, limit=0.00001)
    assert floor_alone(replace(own, noise_floor=float("nan"))) is None
    (other,) = rows_in(taps_frame([own]).assign(broken=broken))
    assert floor_alone(other) is None


def test_every_renderer_gives_the_reason_and_no_excess(run: tuple[Record, pd.DataFrame], tmp_path: Path) -> None:
    record, frame = run
    console = Console(file=io.StringIO(), width=1000)
    print_summary(record, frame, tmp_path, console)
    page = " ".join(write_report(tmp_path, record, frame).read_text(encoding="utf-8").split())
    page = page[page.index('id="fault"') : page.index("</section>", page.index('id="fault"'))]
    terminal = console.file.getvalue()
    terminal = terminal[terminal.index("first fault") :]
    markdown = summary(record, tmp_path)
    markdown = markdown[markdown.index("### First fault") :]
    assert headline(record).startswith(f"Hop {HOP} cannot be judged from {TAP} on: hf and oracle, {REASON}")
    for text in (terminal, page, markdown):
        assert "checkpoint" in text
        assert REASON in text
        assert "re-authoring" not in text
        assert "excess 1" not in text
        assert "1 of 4" not in text
    assert "because    noise_floor 0.5 > 0.001" in terminal
    assert f"{TAP} cannot be judged: hf in float32 is off from itself in float64 by 0.5" in terminal
    assert "<dt>noise floor</dt><dd><b>0.500 of 1.00e-03</b>" in page
    assert "<dt>excess</dt>" not in page
    assert "noise floor 0.500 of 1.00e-03" in markdown


def test_an_annotation_gives_the_noise_floor(run: tuple[Record, pd.DataFrame]) -> None:
    (said,) = [text for text in workflow_commands(run[0], "models/smollm2.py") if f"first at {TAP}" in text]
    assert "noise floor 0.500 of 1.00e-03; owner: checkpoint" in said


def test_nothing_is_searched_for_behind_it(run: tuple[Record, pd.DataFrame]) -> None:
    record, frame = run
    assert explain_task(record, frame, None, ("", ""), Path(), Path(), "", "") is None  # type: ignore[arg-type]
    assert descent_tasks(None, None, record, {}) == {}  # type: ignore[arg-type]
