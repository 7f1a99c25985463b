"""Promises of `harness.compare.metrics`, against plain NumPy in float64, SciPy and mpmath."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import special

from harness.compare import compiling, kernels, metrics

Array = np.ndarray[Any, Any]
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
SPECIALS = (np.nan, np.inf, -np.inf)
FIELDS = ("squared_error", "squared_reference", "squared_candidate", "dot", "sum_abs_err")

quick = settings(max_examples=min(60, settings.default.max_examples))


def plain(reference: Array, candidate: Array) -> dict[str, Array]:
    """What `position_stats` promises, written without care for memory or time."""
    rows = reference.shape[1]
    r = reference.reshape(rows, -1).astype(np.float64)
    c = candidate.reshape(rows, -1).astype(np.float64)
    with np.errstate(all="ignore"):
        e = np.abs(c - r)
        return {
            "squared_error": (e * e).sum(1),
            "squared_reference": (r * r).sum(1),
            "squared_candidate": (c * c).sum(1),
            "dot": (r * c).sum(1),
            "sum_abs_err": e.sum(1),
            "max_abs_err": e.max(1),
            "nan_count": (np.isnan(r) | np.isnan(c)).sum(1),
            "inf_count": (np.isinf(r) | np.isinf(c)).sum(1),
        }


def assert_agrees(reference: Array, candidate: Array) -> None:
    got, want = metrics.position_stats(reference, candidate), plain(reference, candidate)
    for name in ("max_abs_err", "nan_count", "inf_count"):
        np.testing.assert_array_equal(getattr(got, name), want[name], err_msg=name)
    scale = np.sqrt(want["squared_reference"]) * np.sqrt(want["squared_candidate"])
    for name in FIELDS:
        # A dot product cancels; what it may lose is relative to the norms.
        slack = np.where(np.isfinite(scale), 1e-12 * scale, 0.0) if name == "dot" else 0.0
        mine, theirs = getattr(got, name), want[name]
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(theirs), err_msg=name)
        finite = np.isfinite(theirs)
        np.testing.assert_array_equal(mine[~finite], theirs[~finite], err_msg=name)
        allowed = (1e-12 * np.abs(theirs) + slack)[finite]
        assert (np.abs(mine[finite] - theirs[finite]) <= allowed).all(), (name, mine, theirs)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Array, Array]:
    """Two `[1, time, ...]` arrays: any float dtypes, magnitudes from denormal to 1e25, NaN and infinity, strides."""
    time = draw(st.integers(1, 6))
    inner = draw(st.sampled_from([(), (1,), (2,), (7,), (3, 5), (64,), (129,), (4, 33), (1000,), (3000,)]))
    shape = (1, time, *inner)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    magnitude = draw(st.sampled_from([1.0, 1e-42, 1e-22, 1e25]))
    error = draw(st.sampled_from([0.0, 1e-22, 1e-7, 1.0, 1e13]))
    base = rng.standard_normal(shape) * magnitude
    sides = []
    for values in (base, base * (1.0 + error * rng.standard_normal(shape))):
        with np.errstate(under="ignore", over="ignore"):
            side = values.astype(draw(st.sampled_from(DTYPES)))
        if draw(st.booleans()):  # a view: same numbers, every second element of a larger array
            wide = np.zeros((*shape[:-1], shape[-1] * 2), side.dtype)
            wide[..., ::2] = side
            side = wide[..., ::2]
        sides.append(side)
    for _ in range(draw(st.integers(0, 3))):
        place = tuple(draw(st.integers(0, size - 1)) for size in shape)
        for side in draw(st.sampled_from([sides, sides[:1], sides[1:]])):
            side[place] = draw(st.sampled_from(SPECIALS))
    return sides[0], sides[1]


@quick
@given(pairs())
def test_every_sum_maximum_and_count_is_that_of_plain_float64(pair: tuple[Array, Array]) -> None:
    assert_agrees(*pair)


@quick
@given(pairs())
def test_a_tap_with_nan_or_infinity_has_no_figure_that_passes_a_limit(pair: tuple[Array, Array]) -> None:
    figures = metrics.summarise(metrics.position_stats(*pair))
    if figures.nan_count or figures.inf_count:
        assert not math.isfinite(figures.max_abs_err)
        assert not math.isfinite(figures.mean_abs_err)
        assert math.isnan(figures.rel_l2)
        assert math.isnan(figures.cosine)
        assert math.isnan(figures.snr_db)


@pytest.mark.parametrize("value", SPECIALS)
def test_equal_non_finite_values_on_both_sides_are_not_agreement(value: float) -> None:
    array = np.ones((1, 3, 500), np.float32)
    array[0, 1, 77] = value
    stats = metrics.position_stats(array, array.copy())
    assert (stats.nan_count + stats.inf_count).tolist() == [0, 1, 0]
    assert math.isnan(stats.max_abs_err[1])
    assert math.isnan(metrics.summarise(stats).rel_l2)


def test_an_element_that_is_nan_here_and_infinite_there_is_in_both_counts() -> None:
    stats = metrics.position_stats(np.full((1, 1, 4), np.nan), np.full((1, 1, 4), np.inf))
    assert (stats.nan_count.tolist(), stats.inf_count.tolist()) == ([4], [4])


@quick
@given(st.sampled_from(DTYPES), st.integers(1, 5), st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_identical_arrays_have_exactly_no_error(dtype: np.dtype[Any], time: int, elements: int, seed: int) -> None:
    array = np.random.default_rng(seed).standard_normal((1, time, elements)).astype(dtype)
    stats = metrics.position_stats(array, array)
    assert not stats.squared_error.any()
    assert not stats.max_abs_err.any()
    assert not stats.sum_abs_err.any()
    figures = metrics.summarise(stats)
    assert (figures.rel_l2, figures.cosine, figures.snr_db) == (0.0, 1.0, math.inf)


@quick
@given(st.sampled_from(DTYPES), st.integers(1, 3000), st.integers(0, 63), st.data())
def test_one_flipped_bit_in_one_element_is_seen(
    dtype: np.dtype[Any], elements: int, bit: int, data: st.DataObject
) -> None:
    scale = data.draw(st.sampled_from([1.0, 1e-22, 1e25, 1e-44, 1e-300]))
    reference = (np.random.default_rng(elements).standard_normal((1, 2, elements)) * scale).astype(dtype)
    reference[reference == 0.0] = np.finfo(dtype).smallest_subnormal  # the sign of a zero is not a difference
    candidate = reference.copy()
    index = data.draw(st.integers(0, elements - 1))
    bits = candidate.view(f"u{dtype.itemsize}")
    bits[0, 1, index] ^= bits.dtype.type(1 << (bit % (8 * dtype.itemsize)))
    stats = metrics.position_stats(reference, candidate)
    assert stats.max_abs_err[0] == 0.0
    assert stats.max_abs_err[1] != 0.0
    assert stats.squared_error[1] != 0.0
    figures = metrics.summarise(stats)
    assert figures.rel_l2 != 0.0
    assert figures.snr_db != math.inf


@pytest.mark.parametrize("elements", [kernels.CHUNK - 1, kernels.CHUNK, 3 * kernels.CHUNK + 17, 700_001])
def test_rows_longer_than_a_chunk_and_work_on_threads_give_the_same_sums(elements: int) -> None:
    rng = np.random.default_rng(elements)
    reference = rng.standard_normal((1, 2, elements)).astype(np.float32)
    candidate = reference + 1e-5 * rng.standard_normal(reference.shape)
    candidate[0, 1, elements - 1] = np.inf
    assert_agrees(reference, candidate)


def test_many_short_rows_on_threads_give_the_same_sums() -> None:
    rng = np.random.default_rng(3)
    reference = rng.standard_normal((1, 200_000, 3))
    candidate = reference.astype(np.float32)
    candidate[0, 123_456, 1] = np.nan
    assert_agrees(reference, candidate)


@pytest.mark.parametrize("change", ["strided", "swapped", "transposed", "float16", "unaligned"])
def test_arrays_that_cannot_be_read_in_place_give_the_same_figures(change: str) -> None:
    rng = np.random.default_rng(5)
    reference = rng.standard_normal((1, 3, 40, 2 * metrics.SLAB // 40 + 40)).astype(np.float32)
    candidate = (reference + np.float32(1e-3)).astype(np.float32)
    if change == "strided":
        candidate = np.repeat(candidate, 2, axis=3)[..., ::2]
    if change == "swapped":
        candidate = candidate.astype(">f4")
    if change == "transposed":
        candidate = np.ascontiguousarray(candidate.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    if change == "float16":
        candidate = candidate.astype(np.float16)
    if change == "unaligned":
        raw = np.zeros(candidate.nbytes + 1, np.uint8)
        raw[1:] = candidate.view(np.uint8).ravel()
        candidate = raw[1:].view(np.float32).reshape(reference.shape)
    assert_agrees(reference, candidate)
    assert_agrees(reference[..., :50], candidate[..., :50])


@pytest.mark.parametrize("in_place", [True, False])
def test_memory_does_not_grow_with_the_arrays(in_place: bool, tmp_path: Any) -> None:
    shape = (1, 8, 1 << 20)
    sides = []
    for name in ("reference", "candidate"):
        path = tmp_path / f"{name}.npy"
        np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()
        side = np.load(path, mmap_mode="r")
        sides.append(side if in_place else side[..., ::-1])
    metrics.position_stats(sides[0][:, :1, :10], sides[1][:, :1, :10])  # compiles
    tracemalloc.start()
    try:
        metrics.position_stats(*sides)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (sides[0].nbytes // 4)


def test_inputs_are_left_as_they_are() -> None:
    reference, candidate = np.ones((1, 2, 3), np.float32), np.ones((1, 2, 3))
    metrics.position_stats(reference, candidate)
    metrics.logit_stats(reference, candidate)
    assert reference.flags.writeable
    assert candidate.flags.writeable


def test_two_shapes_that_differ_are_both_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 3\).*\(1, 2, 4\)"):
        metrics.position_stats(np.zeros((1, 2, 3)), np.zeros((1, 2, 4)))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), ()])
def test_what_is_not_one_by_time_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="time"):
        metrics.position_stats(np.zeros(shape), np.zeros(shape))


def test_a_dtype_that_float64_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="candidate is complex64"):
        metrics.position_stats(np.zeros((1, 2)), np.zeros((1, 2), np.complex64))


@pytest.mark.parametrize("shape", [(1, 0, 4), (1, 3, 0)])
def test_comparing_nothing_is_not_agreement(shape: tuple[int, ...]) -> None:
    stats = metrics.position_stats(np.zeros(shape), np.zeros(shape))
    assert stats.squared_error.shape == (shape[1],)
    with pytest.raises(ValueError, match="nothing was compared"):
        metrics.summarise(stats)


def test_joined_stretches_equal_the_whole() -> None:
    rng = np.random.default_rng(7)
    reference, candidate = rng.standard_normal((2, 1, 9, 50))
    whole = metrics.position_stats(reference, candidate)
    cuts = [(0, 1), (1, 5), (5, 9)]
    joined = metrics.concat([metrics.position_stats(reference[:, a:b], candidate[:, a:b]) for a, b in cuts])
    for name in (*FIELDS, "max_abs_err", "nan_count", "inf_count"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_stretches_that_do_not_belong_together_are_refused() -> None:
    one, other = (metrics.position_stats(np.zeros((1, 2, n)), np.zeros((1, 2, n))) for n in (3, 4))
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        metrics.concat([one, other])
    with pytest.raises(ValueError, match="no"):
        metrics.concat([])


def test_summary_figures_follow_their_definitions() -> None:
    rng = np.random.default_rng(11)
    reference = rng.standard_normal((1, 5, 70))
    candidate = reference + 1e-3 * rng.standard_normal(reference.shape)
    figures = metrics.summarise(metrics.position_stats(reference, candidate))
    e, r, c = (candidate - reference).ravel(), reference.ravel(), candidate.ravel()
    assert figures.max_abs_err == np.abs(e).max()
    assert figures.mean_abs_err == pytest.approx(np.abs(e).mean(), rel=1e-12)
    assert figures.rel_l2 == pytest.approx(np.linalg.norm(e) / np.linalg.norm(r), rel=1e-12)
    assert figures.cosine == pytest.approx(r @ c / np.linalg.norm(r) / np.linalg.norm(c), rel=1e-12)
    assert figures.snr_db == pytest.approx(10 * math.log10((r @ r) / (e @ e)), rel=1e-12)
    assert figures.elements == 350


def test_an_error_against_a_reference_of_zeros_is_infinite() -> None:
    figures = metrics.summarise(metrics.position_stats(np.zeros((1, 2, 3)), np.full((1, 2, 3), 1e-9)))
    assert (figures.rel_l2, figures.cosine, figures.snr_db) == (math.inf, 0.0, -math.inf)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_squares_that_float64_cannot_hold_do_not_hide_an_error(scale: float) -> None:
    reference = np.full((1, 1, 4), scale)
    figures = metrics.summarise(metrics.position_stats(reference, reference * 1.5))
    assert not figures.rel_l2 <= 0.1
    assert not figures.snr_db >= 20
    same = metrics.summarise(metrics.position_stats(reference, reference))
    assert (same.rel_l2, same.cosine, same.snr_db) == (0.0, 1.0, math.inf)


def exact_kl(reference: Array, candidate: Array) -> float:
    """KL(softmax(reference) || softmax(candidate)) with 60 digits."""
    with mpmath.workdps(60):
        r, c = ([mpmath.mpf(float(x)) for x in side] for side in (reference, candidate))
        log_r, log_c = (mpmath.log(mpmath.fsum(map(mpmath.exp, side))) for side in (r, c))
        return float(
            mpmath.fsum(mpmath.exp(x - log_r) * ((x - log_r) - (y - log_c)) for x, y in zip(r, c, strict=True))
        )


@pytest.mark.parametrize("error", [1e-7, 1e-6, 1e-4, 1e-2, 0.2, 1.0, 30.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kl_keeps_its_digits_however_small_the_difference(error: float, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(13)
    reference = (5 * rng.standard_normal((1, 2, 400))).astype(dtype)
    candidate = (reference + error * rng.standard_normal(reference.shape) + 3.0).astype(dtype)
    got = metrics.logit_stats(reference, candidate).kl
    for position in range(2):
        want = exact_kl(reference[0, position], candidate[0, position])
        assert got[position] == pytest.approx(want, rel=1e-7 if error < 1e-6 else 1e-9)


@quick
@given(st.integers(1, 300), st.sampled_from([1.0, 20.0, 1e4]), st.sampled_from([1e-3, 1.0, 50.0]), st.integers(0, 9999))
@example(2, 1e4, 50.0, 0)
def test_kl_is_that_of_scipy_and_never_negative(vocab: int, scale: float, error: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = scale * rng.standard_normal((1, 3, vocab))
    candidate = reference + error * rng.standard_normal(reference.shape)
    got = metrics.logit_stats(reference, candidate).kl
    log_p, log_q = special.log_softmax(reference[0], axis=1), special.log_softmax(candidate[0], axis=1)
    want = (np.exp(log_p) * (log_p - log_q)).sum(1)
    assert (got >= 0.0).all()
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11 * scale)


@pytest.mark.parametrize(("reference", "candidate"), [([0, -800, 1], [0, 900, 1]), ([0, -40, 5], [1, 400, 5])])
def test_kl_holds_where_the_softmax_of_one_side_underflows(reference: list[float], candidate: list[float]) -> None:
    r, c = np.array(reference, float), np.array(candidate, float)
    got = metrics.logit_stats(r.reshape(1, 1, -1), c.reshape(1, 1, -1)).kl[0]
    assert got == pytest.approx(exact_kl(r, c), rel=1e-12)


def test_logits_shifted_by_a_constant_are_the_same_distribution() -> None:
    reference = np.random.default_rng(17).standard_normal((1, 4, 1000))
    assert (metrics.logit_stats(reference, reference + 1000.0).kl < 1e-25).all()
    assert (metrics.logit_stats(reference, reference).kl == 0.0).all()


@quick
@given(st.one_of(st.integers(1, 50), st.integers(250, 1500)), st.integers(0, 9999), st.sampled_from(DTYPES))
def test_top1_is_the_first_largest_logit_and_margin_its_lead(vocab: int, seed: int, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(seed)
    span = int(rng.choice([4, 10**6]))  # with 4, ties are common
    reference, candidate = rng.integers(-span, span, (2, 1, 5, vocab)).astype(dtype)
    got = metrics.logit_stats(reference, candidate)
    np.testing.assert_array_equal(got.top1_reference, reference[0].argmax(1))
    np.testing.assert_array_equal(got.top1_candidate, candidate[0].argmax(1))
    ordered = np.sort(reference[0], axis=1)
    lead = ordered[:, -1] - ordered[:, -2] if vocab > 1 else np.full(5, np.inf)
    np.testing.assert_array_equal(got.margin_reference, lead)
    want = plain(reference, candidate)
    np.testing.assert_array_equal(got.max_abs_err, want["max_abs_err"])
    np.testing.assert_allclose(got.squared_error, want["squared_error"], rtol=1e-12)
    np.testing.assert_allclose(got.squared_reference, want["squared_reference"], rtol=1e-12)


@pytest.mark.parametrize("value", SPECIALS)
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
def test_logits_with_nan_or_infinity_have_no_kl_and_never_agree(value: float, sides: str) -> None:
    reference, candidate = np.random.default_rng(19).standard_normal((2, 1, 3, 40)).astype(np.float32)
    for name, side in (("reference", reference), ("candidate", candidate)):
        if sides in (name, "both"):
            side[0, 1, 8] = value
    got = metrics.logit_stats(reference, candidate)
    assert np.isnan(got.kl).tolist() == [False, True, False]
    assert got.top1_reference[1] != got.top1_candidate[1]
    assert math.isnan(got.margin_reference[1]) == (sides != "candidate")
    assert not math.isfinite(got.max_abs_err[1])


def test_logits_on_threads_and_in_views_are_those_of_each_row_alone() -> None:
    rng = np.random.default_rng(23)
    reference = rng.standard_normal((1, 12, 50_000)).astype(np.float32)
    candidate = (reference + 1e-3 * rng.standard_normal(reference.shape)).astype(np.float32)
    whole = metrics.logit_stats(reference, candidate)
    view = metrics.logit_stats(reference[..., ::-1], candidate[..., ::-1])
    for row in range(12):
        alone = metrics.logit_stats(reference[:, row : row + 1], candidate[:, row : row + 1])
        assert (alone.kl[0], alone.top1_reference[0]) == (whole.kl[row], whole.top1_reference[row])
        assert view.kl[row] == pytest.approx(whole.kl[row], rel=1e-9)
        assert view.top1_reference[row] == 49_999 - whole.top1_reference[row]


def test_the_exponential_of_the_kernels_is_right_to_the_last_digits() -> None:
    exponents = np.concatenate([np.linspace(-707.0, 300.0, 20_001), np.linspace(-1.0, 1.0, 20_001)])
    got = np.array([kernels.exp(x) for x in exponents])
    np.testing.assert_allclose(got, np.exp(exponents), rtol=1e-15)
    assert kernels.exp(0.0) == 1.0
    assert kernels.exp(-1e9) == kernels.exp(-np.inf) == 0.0


def test_what_is_not_logits_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab"):
        metrics.logit_stats(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 3, 4)))


def test_kernels_compile_without_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiling.numba.njit

    def no_cache(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(compiling.numba, "njit", no_cache)
    assert compiling.compiled(error_model="numpy")(lambda x: x + 1)(1) == 2
