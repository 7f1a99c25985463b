"""The other pages: the list of runs with the trend of each model, and a diff of two runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from browser import Opened, chromium, in_a_browser
from record_factory import FAULTY_TAP, HOSTILE, make_run

from harness.commands import main as cli
from harness.compare.runs import compare_runs
from harness.errors import UsageError
from harness.record.record import write_record
from harness.render.diff_page import direction, write_diff
from harness.render.index import TREND_RUNS, Row, trends, write_index

RUN_ID = "202611{:02}-093012-a1b2"


def row(kind: str, day: int, worst: float | None = None, model: str = "smollm2", variant: str = "default") -> Row:
    record = make_run(kind)[0].model_copy(update={"variant": variant})
    if worst is not None:
        hops = [hop.model_copy(update={"worst": hop.worst.model_copy(update={"excess": worst})}) for hop in record.hops]
        record = record.model_copy(update={"hops": hops})
    run_id = RUN_ID.format(day)
    return Row(model, run_id, f"{model}/{run_id}/report.html", record)


def saved(out: Path, kind: str, day: int, model: str = "smollm2") -> Path:
    folder = out / model / RUN_ID.format(day)
    folder.mkdir(parents=True)
    record, frame = make_run(kind)
    write_record(folder, record.model_copy(update={"run_id": folder.name}), frame)
    return folder


def test_a_trend_has_a_point_per_run_oldest_first_and_higher_where_it_is_worse() -> None:
    newest_first = [row("fail", 4, 400.0), row("pass", 3, 2.0), row("pass", 2, 1.0), row("pass", 1, 3.9)]
    (trend,) = trends(newest_first)
    assert [point.row.run_id for point in trend.points] == [RUN_ID.format(day) for day in (1, 2, 3, 4)]
    heights = [point.y for point in trend.points]
    assert heights[3] < trend.limit < heights[0] < heights[2] < heights[1]  # type: ignore[operator]
    assert [point.x for point in trend.points] == sorted({point.x for point in trend.points})


def test_nan_is_worst_and_what_was_not_compared_has_no_point() -> None:
    record = make_run("pass")[0]
    nothing = Row("smollm2", RUN_ID.format(2), "", record.model_copy(update={"hops": []}))
    (trend,) = trends([row("nan", 3), nothing, row("fail", 1, 1e9)])
    assert trend.points[1].y is None
    assert trend.points[0].y == trend.points[2].y
    assert "nothing compared" in trend.points[1].said


def test_models_variants_and_weights_have_trends_of_their_own_and_unreadable_runs_none() -> None:
    unreadable = Row("smollm2", RUN_ID.format(5), "", None, "is not a run record")
    found = trends([unreadable, row("pass", 4), row("pass", 3, model="phi2"), row("pass", 2, variant="no-hlfb")])
    assert [(trend.model, trend.variant) for trend in found] == [
        ("smollm2", "default"),
        ("phi2", "default"),
        ("smollm2", "no-hlfb"),
    ]


def test_a_long_history_is_drawn_from_its_end() -> None:
    (trend,) = trends([row("pass", day) for day in range(TREND_RUNS + 5, 0, -1)])
    assert len(trend.rows) == TREND_RUNS + 5
    assert [point.row.run_id for point in trend.points][:: TREND_RUNS - 1] == [RUN_ID.format(6), RUN_ID.format(35)]


def test_the_list_of_runs_shows_the_newest_verdict_of_each_model_and_links_every_point(tmp_path: Path) -> None:
    for day, kind in ((1, "pass"), (2, "fail"), (3, "pass")):
        saved(tmp_path, kind, day)
    page = write_index(tmp_path).read_text(encoding="utf-8")
    top = page[: page.index("All runs")]
    assert re.findall(r'class="verdict (\w+)"', top) == ["pass"]
    assert re.findall(r'<a href="([^"]+)"><circle', top) == [
        f"smollm2/{RUN_ID.format(day)}/report.html" for day in (1, 2, 3)
    ]
    assert re.findall(r'<circle class="(\w+)"', top) == ["pass", "fail", "pass"]


def test_a_diff_page_names_what_newly_fails_with_both_figures(tmp_path: Path) -> None:
    page = write_diff(tmp_path / "diff.html", compare_runs(*make_run("pass"), *make_run("fail")))
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert "PASS &rarr; FAIL" in text
    first = text[text.index("Newly failing") :]
    assert first.index(FAULTY_TAP) < first.index("block.3")
    assert re.search(r"<td>excess 1\.\d+ of 4</td><td>(excess|position) \S+ of \d+</td>", first)
    assert "NLL on their common text, in nats per token: 3.58" in text
    assert "script-src 'none'" in text


def test_a_diff_page_of_hostile_runs_is_escaped_and_one_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    hostile = make_run("hostile")
    page = write_diff(tmp_path / "diff.html", compare_runs(*hostile, *hostile)).read_text(encoding="utf-8")
    assert "<script" not in page
    with pytest.raises(UsageError, match="cannot be written"):
        write_diff(tmp_path / "none" / "diff.html", compare_runs(*hostile, *hostile))


def test_the_command_writes_the_page_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(saved(tmp_path, kind, day)) for day, kind in ((1, "pass"), (2, "fail"))]
    page = tmp_path / "diff.html"
    monkeypatch.setattr(sys, "argv", ["edge-parity", "diff", *runs, "--html", str(page)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert f"page    {page}" in capsys.readouterr().out
    assert FAULTY_TAP in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [(("pass", "fail"), "worse"), (("fail", "missing"), "better"), (("pass", "pass"), ""), ((None, "pass"), "better")],
)
def test_a_change_of_verdict_is_called_better_or_worse(verdict: tuple[str | None, str], said: str) -> None:
    assert direction(verdict) == said


@pytest.mark.slow
@in_a_browser
def test_both_pages_open_in_a_browser_without_an_error_or_a_request(tmp_path: Path) -> None:
    for day, kind in ((1, "pass"), (2, "fail"), (3, "crash"), (4, "nan")):
        saved(tmp_path, kind, day)
    saved(tmp_path, "hostile", 5, HOSTILE.replace("/", "%2F").replace("\x00", ""))
    pages = {
        "index": write_index(tmp_path),
        "diff": write_diff(tmp_path / "diff.html", compare_runs(*make_run("pass"), *make_run("fail"))),
    }
    with chromium() as browser:
        for name, path in pages.items():
            for width in (1280, 400):
                page = Opened(browser.new_page(viewport={"width": width, "height": 800})).open(path, scripted=False)
                page.keep(f"{name}-{width}", full_page=True)
                assert page.said == page.outside == []
                assert page.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_index_links_what_other_commands_wrote(tmp_path: Path) -> None:
    for folder, page in (
        ("recipe-20260102-000000-aaaa", "recipe.html"),
        ("generate-20260103-000000-bbbb", "generation.html"),
    ):
        (tmp_path / "m o" / folder).mkdir(parents=True)
        (tmp_path / "m o" / folder / page).write_text("")
    (tmp_path / "m o" / ".generate-20260104-000000-cccc.partial").mkdir()
    written = write_index(tmp_path).read_text(encoding="utf-8")
    links = re.findall(r'href="([^"]+(?:recipe|generation)\.html)"', written)
    assert links == [
        "m%20o/generate-20260103-000000-bbbb/generation.html",
        "m%20o/recipe-20260102-000000-aaaa/recipe.html",
    ]
