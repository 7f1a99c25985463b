"""The positions that are kept of a long input: few, the same for every stage, and where faults begin."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.inputs.sampling import sample_of, sampled_positions
from harness.inputs.tokens import schedule
from harness.jobs.job import JobInput
from harness.names.sample import KEPT_WHOLE, WHOLE_UP_TO, Sample
from harness.names.taps import BLOCK_POINTS, SOURCES, block_tap, tap_order


def sizes(window: int | None = None, whole_up_to: int = WHOLE_UP_TO) -> SimpleNamespace:
    dimensions = SimpleNamespace(window=window)
    return SimpleNamespace(prefill=[32], kv_cache_len=8192, dimensions=dimensions, whole_up_to=whole_up_to)


def sampled(length: int, window: int | None = None, tail: int = 1) -> tuple[int, ...]:
    return sampled_positions(length, schedule(length, tail, [32], 8192), window)


def test_an_input_up_to_the_limit_is_kept_whole():
    item = JobInput(id="a", tokens=[1] * WHOLE_UP_TO)
    assert sample_of(item, sizes()) is None
    assert sample_of(item.model_copy(update={"tokens": [1] * (WHOLE_UP_TO + 1)}), sizes()) is not None


@given(st.integers(1025, 8192), st.integers(1, 300), st.none() | st.integers(1, 9000))
def test_positions_are_few_in_order_and_inside_the_input(length, tail, window):
    found = sampled(length, window, tail)
    assert list(found) == sorted(set(found))
    assert (found[0], found[-1]) == (0, length - 1)
    assert len(found) <= 8 + 2 * 32 + 64 + 96 + 3 + 12


def test_ends_windows_chunks_and_decode_are_among_them():
    found = set(sampled(4096, window=1500, tail=7))
    assert {0, 1, 2, 3, 1499, 1500, 1501, 2047, 2048, 2049, *range(4089, 4096)} <= found
    chunks = [start for start in range(32, 4089, 32) if {start - 1, start} <= found]
    assert len(chunks) >= 32
    assert {31, 32, 4063, 4064} <= found  # the first border and the last


def test_no_long_stretch_is_passed_over_and_hardly_a_place_of_a_chunk():
    found = np.array(sampled(4096))
    assert np.diff(found).max() <= 70
    assert len({position % 32 for position in found.tolist()}) >= 30


def test_all_that_a_local_pass_goes_on_with_is_kept_at_every_position():
    """Keys and values reach later positions, so a reference without them leaves its own errors in what follows."""
    sample = Sample((0, 5))
    whole = {tap for tap in tap_order(1) if not sample.holds(tap)}
    through_cache = {point for point in BLOCK_POINTS if point.startswith("cache.")}
    reached = through_cache | {source for point in through_cache for source in SOURCES[point]}
    assert {block_tap(0, point) for point in reached} <= whole
    assert {"embed", "final_norm", "logits", "block.0.out"} <= whole
    assert sample.holds("block.0.attn.probs")
    assert all(Sample((0,), every=True).holds(tap) for tap in tap_order(1))


def test_the_positions_of_a_stretch_come_as_stretches():
    sample = Sample((0, 1, 2, 7, 9, 10))
    assert sample.within(0, 11) == [(0, 3), (7, 8), (9, 11)]
    assert sample.within(2, 10) == [(2, 3), (7, 8), (9, 10)]
    assert sample.within(3, 7) == []


@pytest.mark.parametrize("point", sorted(KEPT_WHOLE))
def test_a_point_that_is_kept_whole_is_one_that_there_is(point):
    assert point in {*BLOCK_POINTS, "embed", "final_norm", "logits"}
