"""Where in the sequence a fault lives: told by single positions of all inputs, or not told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.locate.sequence import Course, Place, place_of
from harness.names.boundaries import CACHE, CHUNK, DECODE, WINDOW

LIMIT, RIGHT, WRONG = 16.0, 1.5, 900.0
SIZES = {"prompt": (6, 5), "padded": (22, 19), "exact": (32, 32), "chunked": (81, 80), "decode": (22, 6)}
BOUNDS = {WINDOW: 16, CACHE: 256}


def courses(wrong: Callable[[int, bool], bool | float], sizes: dict[str, tuple[int, int]] = SIZES) -> list[Course]:
    """wrong: gets a position and whether decode computes it; says whether it is wrong, or its excess."""
    found = []
    for name, (length, decoded) in sizes.items():
        said = [wrong(at, at >= decoded) for at in range(length)]
        values = [{True: WRONG, False: RIGHT}[one] if isinstance(one, bool) else one for one in said]
        found.append(Course(name, range(length), values, LIMIT, decoded, tuple(range(32, decoded, 32))))
    return found


def place(wrong: Callable[[int, bool], bool | float], shown: str = "decode", **sizes: tuple[int, int]) -> Place:
    return place_of(courses(wrong, sizes or SIZES), shown, BOUNDS)


def test_wrong_wherever_decode_computes_is_a_fault_of_decode_from_the_first_step() -> None:
    assert place(lambda at, decode: decode) == Place("decode", 1, 6)
    assert place(lambda at, decode: decode, shown="padded") == Place("decode", 1, 19)


def test_wrong_in_decode_from_the_windows_edge_on_is_both() -> None:
    assert place(lambda at, decode: decode and at >= 16) == Place("decode", 11, 16, 16, WINDOW)


def test_wrong_wherever_prefill_computes_is_a_fault_of_prefill() -> None:
    assert place(lambda at, decode: not decode) == Place("prefill")


def test_wrong_from_a_position_on_however_it_is_computed_starts_there() -> None:
    assert place(lambda at, decode: at >= 16) == Place(starts_at=16, boundary=WINDOW)
    assert place(lambda at, decode: at >= 18) == Place(starts_at=18)


def test_what_is_wrong_from_the_second_chunk_on_starts_at_a_chunk() -> None:
    assert place(lambda at, decode: at >= 32) == Place(starts_at=32, boundary=CHUNK)


def test_the_last_position_of_the_cache_is_named_and_not_charged_to_decode_which_alone_reaches_it() -> None:
    sizes = {"prompt": (6, 5), "long": (254, 253), "edge-full": (256, 250)}
    assert place(lambda at, decode: at == 255, **sizes) == Place(starts_at=255, boundary=CACHE)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda at, decode: True,
        lambda at, decode: False,
        lambda at, decode: at % 2 == 0,
        lambda at, decode: 5.0 + at,  # an error that grows until it is over the limit
        lambda at, decode: decode and at % 3 == 0,  # a few steps alone
        lambda at, decode: 30.0 if decode else 12.0,  # over the limit, and near what is not
        lambda at, decode: at >= 1,  # position 0 sees itself alone
    ],
    ids=["everywhere", "nowhere", "mixed", "growing", "few steps", "near", "all that attend"],
)
def test_nothing_is_said_where_positions_do_not_tell(wrong: Callable[[int, bool], bool | float]) -> None:
    assert place(wrong) == Place()


def test_decode_is_not_accused_where_prefill_reaches_no_position_that_late() -> None:
    sizes = {"prompt": (6, 5), "decode": (22, 5)}
    assert place(lambda at, decode: decode, **sizes) == Place(starts_at=5, boundary=DECODE)
    assert place(lambda at, decode: decode, **sizes, exact=(32, 32)).only_in == "decode"


def test_no_number_is_wrong() -> None:
    assert place(lambda at, decode: float("nan") if decode else RIGHT) == Place("decode", 1, 6)


def test_the_step_is_counted_on_another_input_where_the_shown_one_has_none() -> None:
    found = place(lambda at, decode: decode, shown="exact")
    assert (found.first_step, found.first_position) == (1, 6)
