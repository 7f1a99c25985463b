"""Traces: pieces in, whole taps out, and nothing that was not written."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.names.sample import Sample
from harness.names.taps import BLOCK_POINTS, block_tap, split_tap, tap_order
from harness.store.trace import MANIFEST, VALUES_FILE, Trace, TraceWriter, export_npy


@given(st.integers(1, 30), st.data())
def test_pieces_in_order_come_back_as_the_whole(tmp_path_factory, length, data):
    folder = tmp_path_factory.mktemp("trace")
    values = np.random.default_rng(length).standard_normal((1, length, 3, 2)).astype(np.float32)
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=4))) if length > 1 else []
    with TraceWriter(folder, length) as trace:
        for start, stop in zip([0, *cuts], [*cuts, length], strict=True):
            trace.put("block.0.attn.q", values[:, start:stop], start)
    read = Trace.open(folder)
    assert np.array_equal(read.load("block.0.attn.q"), values)
    assert read.covered("block.0.attn.q") == [(0, length)]


def test_a_position_that_was_not_written_is_not_covered(tmp_path):
    with TraceWriter(tmp_path, 10) as trace:
        trace.put("logits", np.ones((1, 2, 4)), 0)
        trace.put("logits", np.ones((1, 3, 4)), 7)
    assert Trace.open(tmp_path).covered("logits") == [(0, 2), (7, 10)]


def test_any_tool_that_reads_npy_reads_a_kept_trace(tmp_path):
    values = np.arange(12, dtype=np.float64).reshape(1, 4, 3)
    with TraceWriter(tmp_path, 4) as trace:
        trace.put("embed", values)
    export_npy(tmp_path)
    assert np.array_equal(np.load(tmp_path / "embed.npy"), values)
    assert not (tmp_path / VALUES_FILE).exists()


def test_a_trace_that_was_not_finished_does_not_open(tmp_path):
    def stage() -> None:
        with TraceWriter(tmp_path, 4) as trace:
            trace.put("embed", np.ones((1, 4, 3)))
            raise KeyError("the stage failed here")

    with pytest.raises(KeyError):
        stage()
    with pytest.raises(FileNotFoundError):
        Trace.open(tmp_path)


@pytest.mark.parametrize(
    ("values", "start"),
    [(np.ones((2, 4, 3)), 0), (np.ones(4), 0), (np.ones((1, 4, 3)), 1), (np.ones((1, 5, 3)), 0)],
)
def test_values_that_do_not_fit_the_sequence_are_refused(tmp_path, values, start):
    with pytest.raises(ValueError, match="embed"):
        TraceWriter(tmp_path, 4).put("embed", values, start)


def test_a_piece_of_another_shape_or_dtype_is_refused(tmp_path):
    trace = TraceWriter(tmp_path, 4)
    trace.put("embed", np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="does not continue"):
        trace.put("embed", np.ones((1, 2, 4)), 2)
    with pytest.raises(ValueError, match="does not continue"):
        trace.put("embed", np.ones((1, 2, 3), np.float32), 2)


def test_a_loaded_tap_cannot_be_written_to(tmp_path):
    with TraceWriter(tmp_path, 1) as trace:
        trace.put("embed", np.ones((1, 1, 3)))
    with pytest.raises(ValueError, match="read-only"):
        Trace.open(tmp_path).load("embed")[0, 0, 0] = 2


def test_a_manifest_tells_read_from_derived(tmp_path):
    with TraceWriter(tmp_path, 1) as trace:
        trace.put("block.0.attn.probs", np.ones((1, 1, 3)), how="derived")
    assert Trace.open(tmp_path).how("block.0.attn.probs") == "derived"
    assert json.loads((tmp_path / MANIFEST).read_text())["length"] == 1


def test_taps_come_in_execution_order_and_only_those_a_model_has():
    taps = tap_order(2, [point for point in BLOCK_POINTS if point != "mlp.gate"])
    assert taps[0] == "embed"
    assert taps[-2:] == ["final_norm", "logits"]
    assert taps.index("block.0.out") < taps.index("block.1.attn.norm")
    assert not [tap for tap in taps if "gate" in tap]


def test_a_tap_splits_into_block_and_point_and_back():
    assert split_tap(block_tap(12, "attn.k_rope")) == (12, "attn.k_rope")
    assert split_tap("logits") == (None, "logits")
    with pytest.raises(ValueError, match="unknown point"):
        block_tap(0, "attn.qq")


def test_stretches_that_touch_or_overlap_are_one(tmp_path):
    """However a stage wrote it: a decode step may be written before the prefill it follows, or twice."""
    with TraceWriter(tmp_path, 10) as trace:
        for start, stop in ((6, 10), (0, 4), (3, 6), (8, 9)):
            trace.put("logits", np.zeros((1, stop - start, 3), np.float32), start)
        for start, stop in ((0, 4), (5, 10)):
            trace.put("embed", np.zeros((1, stop - start, 3), np.float32), start)
    read = Trace.open(tmp_path)
    assert (read.covered("logits"), read.is_whole("logits")) == ([(0, 10)], True)
    assert (read.covered("embed"), read.is_whole("embed")) == ([(0, 4), (5, 10)], False)


def test_of_a_long_input_chosen_positions_are_kept_and_take_the_room_of_those(tmp_path):
    values = np.random.default_rng(0).standard_normal((1, 600, 2048)).astype(np.float32)
    with TraceWriter(tmp_path, 600, sample=Sample((0, 1, 300, 599))) as trace:
        for start in range(0, 600, 200):
            trace.put("block.0.attn.probs", values[:, start : start + 200], start)
            trace.put("block.0.out", values[:, start : start + 200, :8], start)
    read = Trace.open(tmp_path)
    assert read.covered("block.0.attn.probs") == [(0, 2), (300, 301), (599, 600)]
    assert read.positions("block.0.attn.probs").tolist() == [0, 1, 300, 599]
    assert np.array_equal(read.load("block.0.attn.probs")[0, [0, 1, 300, 599]], values[0, [0, 1, 300, 599]])
    assert read.covered("block.0.out") == [(0, 600)]
    assert (tmp_path / VALUES_FILE).stat().st_blocks * 512 < values.nbytes / 10


def test_a_kept_trace_of_a_long_input_has_the_rows_that_the_manifest_names(tmp_path):
    values = np.arange(24, dtype=np.float64).reshape(1, 8, 3)
    with TraceWriter(tmp_path, 8, sample=Sample((0, 4, 7))) as trace:
        trace.put("block.0.mlp.out", values)
        trace.put("logits", values)
    export_npy(tmp_path)
    assert np.array_equal(np.load(tmp_path / "block.0.mlp.out.npy"), values[:, [0, 4, 7]])
    assert np.array_equal(np.load(tmp_path / "logits.npy"), values)
    entry = json.loads((tmp_path / MANIFEST).read_text())["taps"]["block.0.mlp.out"]
    assert (entry["covered"], entry["sampled"]) == ([[0, 1], [4, 5], [7, 8]], True)
