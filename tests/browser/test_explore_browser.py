"""What `edge-parity explore` promises in a real browser: two panes in step, overlays on both, open at the fault."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser import chromium, in_a_browser
from marks import further_but
from panes import SIZE, Panes
from record_factory import FAULTY_TAP, KINDS, NAN_TAP, make_run

from harness.explore.server import HOST, Site, open_server
from harness.explore.tap_level import choose_hop, tap_view
from harness.names.taps import tap_order
from harness.render.explorer import OVERLAYS

pytestmark = [pytest.mark.slow, in_a_browser]
BLOCKS = 4
FIRST = "hf->reauthored"
SHOWN = dict.fromkeys(("pass", "crash"), "limit_used") | {"nan": "verdict"}
SHOWN |= dict.fromkeys(("fail", "hostile", "kernel"), "excess")
FAULTS = {"fail": FAULTY_TAP, "hostile": FAULTY_TAP, "kernel": FAULTY_TAP, "nan": NAN_TAP}

Open = Callable[..., Panes]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def opened(browser: Any) -> Iterator[Open]:
    """A kind of run, opened once for all tests that look at it: drawing it takes seconds.

    tap: where to open it, in place of its own first fault.
    """
    ending: list[Callable[[], None]] = []

    @functools.cache
    def open_panes(kind: str, hop: str | None = None, tap: str = "") -> Panes:
        record, frame = make_run(kind, BLOCKS)
        if tap:
            record = record.model_copy(update={"faults": [record.first_fault.model_copy(update={"tap": tap})]})
        server, site = open_server(None), Site(tap_view(record, frame, choose_hop(record, frame, hop)))
        thread = threading.Thread(target=server.serve, args=(site,))
        page = browser.new_page(viewport=SIZE)
        ending.extend([page.close, server.shutdown, thread.join, server.server_close])
        thread.start()
        return Panes(page).open_at(server.url)

    yield open_panes
    for end in ending:
        end()


@pytest.mark.parametrize("kind", further_but(["fail", "hostile"], KINDS))
def test_both_graphs_are_drawn_with_their_overlays_and_nobody_else_is_asked(opened: Open, kind: str) -> None:
    hop = choose_hop(*make_run(kind, BLOCKS))
    page = opened(kind)
    page.keep(f"explore-{kind}")
    panes = [page.pane(0), page.pane(1)]
    assert [pane["graph"] for pane in panes] == [hop.from_, hop.to]
    for at, pane in enumerate(panes):
        assert pane["nodes"] == tap_order(BLOCKS)
        assert set(pane["overlays"]) == set(OVERLAYS)
        assert pane["overlays"]["verdict"]["embed"]["strValue"] == "pass"
        page.until(lambda at=at, node=pane["selected"]: page.place(at, node)["seen"], "in view")
    assert [pane["shown"] for pane in panes] == [SHOWN[kind]] * 2
    assert page.errors == []
    assert page.hosts == {HOST}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_first_fault_is_selected_in_view_and_its_block_open(opened: Open, kind: str) -> None:
    tap = FAULTS[kind]
    block = f"block_{tap.split('.')[1]}"
    page = opened(kind)
    for at in (0, 1):
        pane = page.pane(at)
        assert pane["selected"] == tap
        assert set(pane["open"]) == {block, f"{block}/attn", f"{block}/mlp"}
        page.until(lambda at=at: page.place(at, tap)["seen"], "in view")
        coloured = pane["overlays"][pane["shown"]]
        assert coloured[tap]["bgColor"] != coloured["embed"]["bgColor"]


def test_what_is_selected_on_one_side_is_selected_on_the_other(opened: Open) -> None:
    page = opened("fail")
    for at in (0, 1):
        pane = page.pane(at)
        node = next(
            node
            for node in pane["drawn"]
            if node != pane["selected"] and node.startswith("block.") and page.place(at, node)["seen"]
        )
        page.click(at, node)
        page.until(lambda node=node: [page.pane(side)["selected"] for side in (0, 1)] == [node] * 2, "in step")
    assert page.errors == []


def test_the_page_comes_back_the_same_when_it_is_loaded_again(opened: Open) -> None:
    page = opened("kernel")
    before = [page.pane(at) for at in (0, 1)]
    page.page.reload()
    page.wait()
    assert [page.pane(at) for at in (0, 1)] == before


def test_the_token_is_a_cookie_that_stands_in_no_address_and_that_no_script_reads(opened: Open, browser: Any) -> None:
    page = opened("pass")
    (cookie,) = page.page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert cookie["value"] not in page.page.url
    assert page.page.evaluate("document.cookie") == ""
    stranger = browser.new_context().new_page()
    assert stranger.goto(page.page.url).status == 403
    stranger.close()


def test_the_legend_of_the_colours_unfolds_and_folds(opened: Open) -> None:
    page = opened("pass")
    scale = page.page.get_by_text("share of the limit")
    assert not scale.is_visible()
    page.page.get_by_text("Colours", exact=True).click()
    assert scale.is_visible()
    page.keep("explore-legend")
    page.page.get_by_text("Colours", exact=True).click()
    assert not scale.is_visible()
    assert page.errors == []


def test_a_pane_is_drawn_once_per_frame_however_often_the_page_asks_for_it(opened: Open) -> None:
    page = opened("pass")
    page.settle()
    assert page.ask_to_draw(0, times=9) == [0, 1]
    assert page.ask_to_draw(1, times=9) == [0, 1]


def test_a_pane_whose_size_changed_is_drawn_before_it_is_seen_empty(opened: Open) -> None:
    page = opened("pass")
    page.settle()
    assert page.ask_to_draw(0, times=1, grow=True) == [1, 1]


def test_a_hop_that_is_asked_for_opens_where_another_one_lost_its_stage(opened: Open) -> None:
    page = opened("crash", "reauthored->tflite-builtin")
    assert [page.pane(at)["graph"] for at in (0, 1)] == ["reauthored", "tflite-builtin"]


def test_a_hostile_name_is_shown_as_text_and_does_nothing(opened: Open) -> None:
    """The rule that judged the third tap has such a name, and stands among the attributes of the node."""
    page = opened("hostile", FIRST, "block.0.attn.k")
    page.keep("explore-hostile-name")
    assert "<script>alert('x')</script>" in page.page.inner_text("body")
    assert page.page.evaluate("document.scripts.length") == 3
    assert page.errors == []
    assert page.hosts == {HOST}
