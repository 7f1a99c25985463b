"""What a report promises in a real browser: no error, no request, the fault on the first screen, every tap a point."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Opened, chromium, in_a_browser
from panes import SIZE as WINDOW
from panes import Panes, exploring
from paths import ROOT
from record_factory import FAULTY_TAP, HOSTILE, KINDS, NAN_TAP, make_details, make_run

from harness.explore.command import LEVELS
from harness.plain import clean
from harness.record.details import write_details
from harness.record.record import read_record, read_taps
from harness.render.html import write_report

pytestmark = [pytest.mark.slow, in_a_browser]
BLOCKS = 12

Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    written = {}
    for kind in KINDS:
        (folder / kind).mkdir()
        write_details(folder / kind, make_details(kind, BLOCKS))
        written[kind] = write_report(folder / kind, *make_run(kind, BLOCKS))
    return written


@pytest.fixture
def opened(browser: Any, reports: dict[str, Path]) -> Iterator[Open]:
    pages = []

    def open_page(kind: str, **context: Any) -> Opened:
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}, **context})
        pages.append(page)
        return Opened(page).open(reports[kind])

    yield open_page
    for page in pages:
        page.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_opens_without_an_error_and_without_a_request(opened: Open, kind: str) -> None:
    page = opened(kind)
    page.keep(f"report-{kind}")
    page.keep(f"report-{kind}-whole", full_page=True)
    assert page.said == []
    assert page.outside == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pass", ["PASS", "The re-authored model is faithful to the Hugging Face model", "Worst excess 1."]),
        ("fail", ["FAIL", "diverges from block 2's MLP output", f"First fault: {FAULTY_TAP}", "edge-parity explore "]),
        (
            "kernel",
            [
                "TFLite on XNNPACK diverges from block 2's MLP output",
                f"First fault: {FAULTY_TAP}",
                "edge-parity explore ",
            ],
        ),
        ("nan", ["TFLite on builtin kernels diverges", f"First fault: {NAN_TAP}", "XNNPACK is faithful"]),
        ("crash", ["Stage tflite-xnnpack crashed", "not compared", "killed by SIGSEGV"]),
        ("hostile", ["FAIL", f"First fault: {FAULTY_TAP}"]),
    ],
)
def test_the_first_screen_has_the_verdict_and_the_first_fault(opened: Open, kind: str, said: list[str]) -> None:
    seen = opened(kind).first_screen()
    for words in said:
        assert words in seen


@pytest.mark.parametrize("kind", KINDS)
def test_every_compared_tap_is_a_point(opened: Open, kind: str) -> None:
    record, frame = make_run(kind, BLOCKS)
    page = opened(kind)
    given = page.page.evaluate("document.getElementById('chart-input').selectedIndex")
    mine = frame[
        (frame["input"] == record.inputs[given].id) & (frame["verdict"] != "missing") & frame["excess"].notna()
    ]
    wanted = {hop.name: int((mine["hop"] == hop.name).sum()) for hop in record.hops if hop.taps_compared}
    assert page.charts() == wanted


def test_a_figure_that_is_chosen_is_drawn_and_a_stretch_can_be_looked_at(opened: Open) -> None:
    page = opened("fail")
    page.page.select_option("#chart-metric", "rel_l2")
    assert page.charts()["hf->reauthored"] == 18 * BLOCKS + 3
    plot = page.page.locator(".plot").first
    plot.focus()
    for key in ("ArrowRight", "PageDown", "+", "+"):
        page.page.keyboard.press(key)
    assert "noise floor" in page.page.inner_text("#tip")
    page.keep("report-fail-zoomed")
    assert page.said == []


def test_how_large_the_reference_gets_is_drawn_against_the_end_of_float16(opened: Open) -> None:
    page = opened("pass")
    assert page.page.is_visible("#depth .band-key")
    page.page.select_option("#chart-metric", "magnitude")
    assert page.charts()["hf->reauthored"] == 18 * BLOCKS + 3
    assert not page.page.is_visible("#depth .band-key")
    page.page.locator(".plot").first.focus()
    page.page.keyboard.press("Home")
    assert "values -2 to 3, 0.20 % subnormal in float16" in page.page.inner_text("#tip")
    assert "largest" in page.page.inner_text("#tap-table thead")
    assert "NaN" not in page.page.inner_text("#tap-table thead")
    assert page.said == []


def test_a_point_leads_to_its_row_by_mouse_and_by_keyboard(opened: Open) -> None:
    page = opened("fail")
    page.page.locator(".plot").first.scroll_into_view_if_needed()
    box = page.page.locator(".plot .u-over").first.bounding_box()
    page.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 40)
    assert page.page.locator("#tap-table tr.detail").count() == 1
    assert page.page.input_value("#f-text").startswith("block.")
    page.page.locator(".plot").first.focus()
    page.page.keyboard.press("Home")
    page.page.keyboard.press("Enter")
    assert page.page.input_value("#f-text") == "embed"


@pytest.mark.parametrize("kind", KINDS)
def test_every_position_of_the_chosen_tap_is_a_point_and_opens_at_the_fault(opened: Open, kind: str) -> None:
    record, _ = make_run(kind, BLOCKS)
    page = opened(kind).page
    chosen = page.locator("#p-input option:checked").inner_text()
    tokens = {clean(item.id)[:57]: item.tokens for item in record.inputs}[chosen.removesuffix("...")]
    plot = page.locator("#excess-chart .plot")
    points = int(plot.get_attribute("data-points"))
    assert points == (0 if kind == "nan" else tokens)
    if record.first_fault is not None:
        assert plot.get_attribute("data-tap") == record.first_fault.tap
    for chart in ("kl", "margin"):
        assert int(page.locator(f".plot[data-of={chart}]").get_attribute("data-points")) == tokens


def test_flips_are_told_apart_and_lead_to_the_likely_tokens_as_text(opened: Open) -> None:
    page = opened("fail").page
    said = page.locator("#p-said")
    assert page.input_value("#p-at") == "1"
    assert 'flips above noise: " word7" to " word8"' in said.inner_text()
    page.click("#p-flip")
    assert page.input_value("#p-at") == "2"
    assert "flips within noise" in said.inner_text()
    stages = page.locator("#token-table thead th").all_inner_texts()
    assert stages == ["rank", "oracle", "hf", "reauthored", "tflite-xnnpack", "tflite-builtin"]
    assert page.locator("#token-table tbody tr").count() == 5
    assert '" word7"' in page.locator("#token-table tbody tr").first.inner_text()
    page.select_option("#p-hop", label="reauthored->tflite-xnnpack")
    page.click("#p-flip")
    assert said.inner_text() == "no flip on this input and hop"


def test_without_a_flip_the_position_of_the_largest_divergence_is_shown(opened: Open) -> None:
    page = opened("pass").page
    longest = max(item.tokens for item in make_run("pass", BLOCKS)[0].inputs)
    assert page.input_value("#p-at") == str(longest - 1)
    assert page.locator("#token-table tbody tr").count() == 5


def test_a_row_shows_how_large_the_errors_of_its_elements_are(opened: Open) -> None:
    page = opened("fail").page
    for select, label in (("#f-verdict", "all"), ("#f-input", "long")):
        page.select_option(select, label=label)
    page.fill("#f-text", FAULTY_TAP)
    page.locator("#tap-table tbody tr").first.click()
    bars = page.locator(".histogram i")
    assert bars.count() == 7
    assert len({bar.bounding_box()["height"] for bar in bars.all()}) > 3


def test_the_table_filters_searches_sorts_and_opens(opened: Open) -> None:
    page, (_, frame) = opened("fail"), make_run("fail", BLOCKS)
    shown = page.page.locator("#count")
    page.page.select_option("#f-hop", label="all")
    page.page.select_option("#f-input", label="all")
    failing = int((frame["verdict"] == "fail").sum())
    assert shown.inner_text().startswith(f"{failing} of {len(frame)} rows")
    page.page.select_option("#f-verdict", label="all")
    page.page.fill("#f-text", "block.2 mlp.out")
    assert shown.inner_text().startswith(f"18 of {len(frame)} rows")
    page.page.click("button[data-name=excess]")
    assert page.page.get_attribute("#tap-table th:has(button[data-name=excess])", "aria-sort") == "descending"
    page.page.locator("#tap-table tbody button").first.press("Enter")
    detail = page.page.inner_text("#tap-table tr.detail")
    for name in ("hf", "reauthored", "tflite", "transformer_blocks.2.mlp.out"):
        assert name in detail


def test_the_filtered_rows_are_copied_as_csv(opened: Open) -> None:
    page = opened("fail")
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.select_option("#f-verdict", label="missing")
    page.page.select_option("#f-hop", label="reauthored->tflite-xnnpack")
    page.page.click("#copy")
    page.page.locator("#count", has_text="copied").wait_for()
    copied = list(csv.DictReader(io.StringIO(page.page.evaluate("navigator.clipboard.readText()"))))
    assert len(copied) == BLOCKS
    assert {row["tap"].split(".")[-1] for row in copied} == {"probs"}
    assert {row["excess"] for row in copied} == {""}


def test_a_hostile_name_is_shown_and_does_nothing(opened: Open) -> None:
    page = opened("hostile")
    dialogs: list[str] = []
    page.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    assert page.page.evaluate("document.scripts.length") == 2
    said = " ".join(page.page.text_content("body").split())
    assert clean(HOSTILE) in said
    assert "\U0001f600 \u05e9\u05dc\u05d5\u05dd word" in said
    assert max(box["height"] for cell in page.page.locator("td.text").all() if (box := cell.bounding_box())) < 400
    page.page.fill("#f-text", "alert")
    assert dialogs == page.said == []


@pytest.mark.parametrize("kind", ["pass", "fail", "hostile"])
def test_nothing_sticks_out_of_a_narrow_screen(opened: Open, kind: str) -> None:
    page = opened(kind, viewport={"width": 400, "height": 800})
    page.keep(f"report-{kind}-narrow", full_page=True)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 400


def test_dark_mode_and_print_are_kept_as_pictures(opened: Open) -> None:
    page = opened("fail", color_scheme="dark")
    page.keep("report-fail-dark", full_page=True)
    background = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.page.emulate_media(media="print", color_scheme="light")
    page.keep("report-fail-print", full_page=True)
    assert background != page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert not page.page.locator(".controls").first.is_visible()
    assert page.said == []


def test_every_control_has_a_name_and_every_table_has_headings(opened: Open) -> None:
    page = opened("fail")
    unnamed = page.page.evaluate(
        """() => {
            const named = (one) => one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label");
            return [...document.querySelectorAll("select, input, button")].filter((one) => !named(one)).length;
        }"""
    )
    assert unnamed == 0
    assert page.page.locator("table:not(:has(th[scope=col]))").count() == 0
    assert page.page.locator(".plot:not([aria-label])").count() == 0


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with a fault: builtin kernels show a transpose that the converter lost."""
    out = tmp_path_factory.mktemp("gemma")
    words = [sys.executable, "-m", "harness.commands.main", "run", "gemma1", "--miniature", "--out", str(out)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 1
    (report,) = out.glob("gemma1/*/report.html")
    return report


def test_a_real_run_says_and_draws_what_it_found(browser: Any, gemma: Path) -> None:
    report = gemma
    record, frame = read_record(report.parent), read_taps(report.parent)
    page = Opened(browser.new_page(viewport={"width": 1280, "height": 800})).open(report)
    page.keep("report-real-gemma1", full_page=True)
    seen = page.first_screen()
    assert record.first_fault is not None
    operator = record.first_fault.operator
    assert operator is not None
    assert (operator.op, operator.whose) == ("RESHAPE", "converter")
    for said in (
        "TFLite on builtin kernels diverges",
        f"First fault: {record.first_fault.tap}",
        record.first_fault.owner,
    ):
        assert said in seen
    given = page.page.locator("#chart-input option:checked").inner_text()
    mine = frame[(frame["input"] == given) & (frame["verdict"] != "missing")]
    assert page.charts() == {hop.name: int((mine["hop"] == hop.name).sum()) for hop in record.hops}
    stages = page.page.locator("#token-table thead th").all_inner_texts()
    assert stages == ["rank", "oracle", "hf", "reauthored", "tflite-xnnpack", "tflite-builtin"]
    assert page.page.locator(".plot[data-of=kl]").count() == 1
    assert page.said == page.outside == []


@pytest.mark.parametrize("level", LEVELS)
def test_the_command_of_a_real_report_opens_both_graphs_at_its_fault(browser: Any, gemma: Path, level: str) -> None:
    record = read_record(gemma.parent)
    fault = record.first_fault
    assert fault is not None
    with exploring(gemma.parent, "--hop", fault.hop, "--level", level) as url:
        page = Panes(browser.new_page(viewport=WINDOW)).open_at(url)
        page.settle()
        page.keep(f"explore-real-gemma1-{level}")
        panes = [page.pane(at) for at in (0, 1)]
        page.page.close()
    for pane in panes:
        assert fault.tap in pane["nodes"]
        assert pane["shown"] == "local_excess"
        assert pane["overlays"]["verdict"][fault.tap]["strValue"] == "fail"
        assert pane["overlays"]["verdict"][pane["selected"]]["strValue"] == "fail"
    assert panes[0]["selected"] == fault.tap
    assert (panes[1]["selected"] == fault.tap) == (level == "tap")  # else at the operator at fault, which only feeds it
    assert page.errors == []
    assert page.hosts == {"127.0.0.1"}
