"""What the HTML report promises: one safe file, every verdict visible, nothing missing shown as a number."""

from __future__ import annotations

import base64
import hashlib
import io
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from record_factory import BLOCKS, FAULTY_TAP, HOSTILE, KINDS, WHY_MISSING, make_details, make_run
from rich.console import Console

from harness.commands.main import app
from harness.explore.tap_level import choose_hop
from harness.plain import clean
from harness.record.details import write_details
from harness.record.record import FaultyOperator, Record, StageResult, read_record, read_taps, write_record
from harness.record.tap_row import taps_frame
from harness.render.explorer import write_explorer
from harness.render.html import chain, write_report
from harness.render.junit import write_junit
from harness.render.page import CHART_SCRIPT, TEMPLATES, VENDORED, unpacked
from harness.render.terminal import print_explain, print_summary


def sha256_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Page(HTMLParser):
    """Texts, tags and script bodies of a report, as a browser would split them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag == "style":
            self.styles.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem == "style":
            self.styles[-1] += data
        else:
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        return unpacked(self.scripts[0])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reports")
    written = {}
    for kind in KINDS:
        (folder / kind).mkdir()
        run = make_run(kind, 3) if kind == "hostile" else make_run(kind)
        written[kind] = write_report(folder / kind, *run).read_text(encoding="utf-8")
    return written


def rows(data: dict[str, Any], **wanted: str) -> list[dict[str, Any]]:
    """Rows of the embedded data as dicts."""
    found = []
    for row in range(data["rows"]):
        named = {column: values[row] for column, values in data["columns"].items()}
        named |= {column: index[named[column]] for column, index in data["texts"].items()}
        named["verdict"] = data["verdicts"][named["verdict"]]
        if all(named[column] == value for column, value in wanted.items()):
            found.append(named)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_reaches_for_nothing_outside_itself(pages: dict[str, str], kind: str) -> None:
    page = Page(pages[kind])
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    digests = [sha256_source(text) for text in (page.styles[0], page.scripts[-1])]
    assert policy == (
        f"default-src 'none'; style-src {digests[0]}; script-src {digests[1]}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    assert [tag for tag, attrs in page.tags if "style" in attrs or any(name.startswith("on") for name in attrs)] == []
    for _, attrs in page.tags:
        assert not attrs.get("src")
        assert (attrs.get("href") or "data:").startswith(("data:", "#"))


def test_the_verdict_stands_in_words_at_the_top(pages: dict[str, str]) -> None:
    assert "The re-authored model is faithful to the Hugging Face model; TFLite is faithful" in Page(pages["pass"]).text
    assert "The re-authored model diverges from block 2's MLP output: weight bfloat16." in Page(pages["fail"]).text
    assert "TFLite on builtin kernels diverges from block 3's attention." in Page(pages["nan"]).text
    assert "Stage tflite-xnnpack crashed." in Page(pages["crash"]).text


def test_a_failing_report_says_first_where_by_how_much_and_what_to_do_next(pages: dict[str, str]) -> None:
    text = " ".join(Page(pages["fail"]).text.split())
    top = text[: text.index("Error against depth")]
    module = "transformer_blocks.2.mlp.out"
    assert f"{FAULTY_TAP} of reauthored ({module}) is off from hf by 325 times what float32 itself costs" in top
    assert "the limit is 4." in top
    assert "Suspect the model in reauthored: compare" in top
    assert "edge-parity explain " in top


def test_the_operator_behind_a_fault_is_named_with_whose_it_is_and_why(tmp_path: Path) -> None:
    record, frame = make_run("nan", 9)
    assert record.first_fault is not None
    faulty = FaultyOperator(
        whose="converter",
        op="RESHAPE",
        index=12,
        subgraph=3,
        composites=["odml.scaled_dot_product_attention"],
        tensor="t",
        why="it was a transpose",
        error=0.92,
        after=1e-6,
    )
    fault = record.first_fault.model_copy(update={"operator": faulty, "owner": "converter", "evidence": ["both agree"]})
    owned = record.model_copy(update={"faults": [fault]})
    text = " ".join(Page(write_report(tmp_path, owned, frame).read_text(encoding="utf-8")).text.split())
    assert (
        "converterRESHAPE, operator 12 of subgraph 3, inside odml.scaled_dot_product_attention: it was a trans" in text
    )
    assert "ownerconverterevidenceboth agree" in text
    assert "owner: converter" in text[: text.index("First fault")]


def test_a_passing_report_shows_its_worst_figures_beside_their_limits(pages: dict[str, str]) -> None:
    assert "Worst excess 1." in (text := Page(pages["pass"]).text)
    assert " of 4 (block." in text


def test_a_run_from_before_limits_were_stored_is_still_shown(tmp_path: Path) -> None:
    record, frame = make_run("fail", 3)
    old = frame.drop(columns=["excess_limit", "position_excess_limit"])
    page = Page(write_report(tmp_path, record, old).read_text(encoding="utf-8"))
    assert {row["excess_limit"] for row in rows(page.data)} == {None}
    assert write_explorer(tmp_path, record, old)


def test_the_page_holds_the_share_of_the_limit_that_a_tap_uses_up(pages: dict[str, str]) -> None:
    for row in rows(Page(pages["pass"]).data, verdict="pass", input="one-token"):
        assert (row["excess_limit"], row["position_excess_limit"]) == (16, 16)
        assert row["limit_used"] == pytest.approx(row["excess"] / 16, rel=1e-2)


def test_the_page_holds_how_large_the_reference_gets_and_a_run_from_before_that_opens_too(
    tmp_path: Path, pages: dict[str, str]
) -> None:
    record, frame = make_run("pass")
    for row in rows(Page(pages["pass"]).data, input="prompt"):  # those of missing taps as well
        order = list(record.taps).index(row["tap"])
        largest = max(2 + order, 3 + order**2)
        assert (row["value_min"], row["magnitude"]) == (-2 - order, pytest.approx(largest, rel=5e-3))
    assert "guessing comes to 10.8" in pages["pass"]
    old = frame.drop(columns=["value_min", "value_max", "overflow_share", "subnormal_share"])
    page = write_report(tmp_path, record.model_copy(update={"likelihood": None}), old).read_text(encoding="utf-8")
    assert {row["magnitude"] for row in rows(Page(page).data)} == {None}
    assert "guessing" not in page


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_the_command_that_opens_its_graphs(pages: dict[str, str], kind: str) -> None:
    """The command line takes it, and it names a hop that explore can open."""
    record, frame = make_run(kind, BLOCKS)
    lines = [line.strip() for line in Page(pages[kind]).text.splitlines()]
    (command,) = (line for line in lines if line.startswith("edge-parity explore "))
    group: Any = typer.main.get_command(app)
    name, *words = shlex.split(command)[1:]
    given = group.commands[name].make_context(name, words).params
    assert choose_hop(record, frame, given["hop"]).name == given["hop"]
    if record.first_fault is not None:
        assert given["hop"] == record.first_fault.hop


def test_a_missing_tap_has_its_reason_and_no_numbers(pages: dict[str, str]) -> None:
    page = Page(pages["pass"])
    missing = rows(page.data, verdict="missing")
    assert len(missing) == BLOCKS * 6
    for row in missing:
        assert row["why"] == WHY_MISSING
        assert [row[name] for name in ("excess", "rel_l2", "noise_floor", "max_abs_err")] == [None] * 4
    assert WHY_MISSING in page.text


def test_a_hop_whose_stage_crashed_is_not_shown_as_compared(pages: dict[str, str]) -> None:
    page = Page(pages["crash"])
    assert not rows(page.data, hop="reauthored->tflite-xnnpack")
    assert "nothing compared" in page.text
    assert "SIGSEGV" in page.text


def test_nan_of_a_failing_tap_stays_nan(pages: dict[str, str]) -> None:
    page = Page(pages["nan"])
    failing = rows(page.data, verdict="fail")
    assert failing
    assert {row["excess"] for row in failing} == {"NaN"}
    assert "excess not finite" in page.text


@pytest.mark.slow
def test_the_report_of_a_model_of_thirty_blocks_stays_small(tmp_path: Path) -> None:
    assert write_report(tmp_path, *make_run("fail", 30)).stat().st_size < 2_000_000


def test_numbers_survive_with_three_digits(pages: dict[str, str]) -> None:
    frame = make_run("fail")[1]
    wanted = frame[(frame["tap"] == FAULTY_TAP) & (frame["hop"] == "hf->reauthored") & (frame["input"] == "prompt")]
    (row,) = rows(Page(pages["fail"]).data, tap=FAULTY_TAP, hop="hf->reauthored", input="prompt")
    for column in ("excess", "rel_l2", "noise_floor", "max_abs_err"):
        assert row[column] == pytest.approx(wanted[column].item(), rel=5e-3)
    assert Page(pages["fail"]).data["rows"] == len(frame)


def test_positions_and_tokens_are_in_the_page_where_the_run_kept_them(tmp_path: Path, pages: dict[str, str]) -> None:
    details = make_details("fail", 3)
    write_details(tmp_path, details)
    page = Page(write_report(tmp_path, *make_run("fail", 3)).read_text(encoding="utf-8"))
    kept, texts = page.data["details"], page.data["texts"]
    assert sum(len(one["excess"]) for one in kept["excesses"]) == len(details.positions)
    assert {flip for one in kept["logits"] for flip in one["flip"]} == {"", "above noise", "within noise"}
    first = next(one for one in kept["excesses"] if texts["tap"][one["tap"]] == FAULTY_TAP)
    assert (first["positions"][0], first["limit"]) == (0, 16)
    assert "details" not in Page(pages["fail"]).data
    assert "Error against position" not in Page(pages["fail"]).text


def test_hostile_strings_neither_leave_their_element_nor_get_lost(pages: dict[str, str]) -> None:
    page = Page(pages["hostile"])
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert clean(HOSTILE) in page.data["texts"]["input"]
    assert clean(HOSTILE) in page.text
    assert "{{ 7*7 }}" in page.text
    assert not set(pages["hostile"]) & {"\x1b", "\x00", "\u202e"}


def test_a_report_made_again_from_the_folder_says_the_same(tmp_path: Path) -> None:
    record, frame = make_run("nan")
    write_record(tmp_path, record, frame)
    first = write_report(tmp_path, record, frame).read_text(encoding="utf-8")
    again = write_report(tmp_path, read_record(tmp_path), read_taps(tmp_path)).read_text(encoding="utf-8")
    assert Page(first).data == Page(again).data
    assert Page(first).text == Page(again).text


def test_the_pipeline_is_drawn_as_the_hops_chain_it_and_a_loop_ends() -> None:
    record, _ = make_run("pass")
    (root,) = chain(record)
    assert root.name == "hf"
    assert [hop.name for hop, _ in root.hops[0][1].hops] == ["reauthored->tflite-xnnpack", "reauthored->tflite-builtin"]
    quantised = record.hops[1].model_copy(update={"from_": "tflite-xnnpack", "to": "tflite-xnnpack[dynamic_int8]"})
    back = record.hops[0].model_copy(update={"from_": "tflite-xnnpack[dynamic_int8]", "to": "reauthored"})
    looped = Record.model_construct(**{**dict(record), "hops": [*record.hops, quantised, back]})
    assert [node.name for node in chain(looped)] == ["hf"]


def test_the_command_that_made_the_run_can_be_copied(tmp_path: Path) -> None:
    record, frame = make_run("pass", 3)
    words = ["edge-parity", "run", "smollm2", "--prompt", "it's <b>"]
    noted = record.model_copy(update={"options": {"command": words, "seed": 0}})
    text = Page(write_report(tmp_path, noted, frame).read_text(encoding="utf-8")).text
    assert shlex.join(words) in text


def test_a_step_that_broke_before_any_hop_stands_beside_the_chain(tmp_path: Path) -> None:
    record, frame = make_run("fail", 3)
    convert = StageResult(name="convert", status="timeout", seconds=600, detail="no answer for 600 s")
    late = record.model_copy(update={"stages": [*record.stages, convert, StageResult(name="tap", status="ok")]})
    text = Page(write_report(tmp_path, late, frame).read_text(encoding="utf-8")).text
    assert "no answer for 600 s" in text
    assert text.count("not compared") == 1


def test_a_run_that_compared_nothing_is_still_shown_by_every_renderer(tmp_path: Path) -> None:
    lost = [StageResult(name="hf", status="crashed", detail="killed: out of memory")]
    record = Record(schema=1, model="phi2", run_id="r", verdict="fail", inputs=[], stages=lost, hops=[])
    frame = taps_frame([])
    console = Console(file=io.StringIO(), width=80)
    print_summary(record, frame, tmp_path, console)
    print_explain(record, frame, console)
    assert "out of memory" in console.file.getvalue()
    assert "out of memory" in Page(write_report(tmp_path, record, frame).read_text(encoding="utf-8")).text
    assert "<error" in write_junit(tmp_path, record).read_text(encoding="utf-8")
    assert write_explorer(tmp_path, record, frame) == []


def test_a_report_written_while_the_run_is_under_way_names_the_folder_where_it_will_be(tmp_path: Path) -> None:
    record, frame = make_run("fail")
    working = tmp_path / f".{record.run_id}.partial"
    working.mkdir()
    page = write_report(working, record, frame).read_text()
    assert f"edge-parity explain {tmp_path / record.run_id}" in page
    assert ".partial" not in page


def test_the_chart_library_is_carried_whole_once_and_with_its_licence(pages: dict[str, str]) -> None:
    library = (VENDORED / CHART_SCRIPT).read_text(encoding="utf-8")
    assert pages["pass"].count(library) == 1
    assert "MIT" in (VENDORED / "uPlot.LICENSE").read_text(encoding="utf-8")
    for own in TEMPLATES.glob("*.js"):
        assert "innerHTML" not in own.read_text(encoding="utf-8")
