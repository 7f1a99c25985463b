"""A conversion variant has one name, is read back from it, and changes what the cache key covers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.align.layout import HeadLayout, canonical_cache
from harness.align.views import TapSource, view_tensor
from harness.errors import UsageError
from harness.flatbuffer.signatures import cache_of
from harness.names.variant import KV_LAYOUTS, Variant, VariantOptions, parse_prefill, parse_variant
from harness.stages.litert.stage import device_mask

lengths = st.lists(st.integers(1, 4096), min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found)))
variants = st.builds(
    Variant, st.booleans(), st.sampled_from(KV_LAYOUTS), st.booleans(), st.one_of(st.just(()), lengths)
)


@given(variants)
def test_a_name_is_read_back_as_the_variant_it_names(variant: Variant) -> None:
    assert parse_variant(variant.name) == variant


def test_the_default_has_a_name_and_the_others_say_what_differs() -> None:
    assert Variant().name == "default"
    assert Variant(False, "transposed", True, (8, 32)).name == "no-hlfb,kv=transposed,mask-as-input,prefill=8+32"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no_hlfb", "'no_hlfb'"),
        ("", "''"),
        ("kv=sideways", "default, transposed"),
        ("no-hlfb,kv", "kv is no KV layout"),
        ("prefill=8+x", "prefill=8+x"),
        ("prefill=0", "prefill=0"),
        ("prefill=", "prefill="),
    ],
)
def test_a_name_without_a_meaning_is_refused_with_the_word_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_variant(text)
    assert says in str(caught.value)


def test_prefill_lengths_are_ascending_and_each_stands_once() -> None:
    assert parse_prefill(" 32, 8,32") == (8, 32)


@pytest.mark.parametrize("text", ["", "8,", "8;32", "-8", "0", "8.5", "٨"])
def test_what_is_no_list_of_lengths_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="--prefill 8,32"):
        parse_prefill(text)


def test_options_change_what_they_say_and_nothing_else() -> None:
    declared = Variant(hlfb=False, kv_layout="transposed")
    assert VariantOptions().applied_to(declared) == declared
    assert VariantOptions(hlfb=True).applied_to(declared) == Variant(kv_layout="transposed")
    assert VariantOptions(mask_as_input=True, prefill=(8,)).applied_to(declared) == Variant(
        False, "transposed", True, (8,)
    )


@given(variants, variants)
def test_exactly_a_variant_is_that_variant_whatever_is_declared(asked: Variant, declared: Variant) -> None:
    got = VariantOptions.exactly(asked).applied_to(declared)
    assert dataclasses.replace(got, prefill=asked.prefill) == asked


def test_the_declared_prefill_lengths_need_no_naming() -> None:
    assert Variant(prefill=(8, 32)).settled([32, 8]) == Variant()
    assert Variant(prefill=(8,)).settled([32, 8]).name == "prefill=8"


def test_a_cache_of_another_length_is_a_variant_of_its_own_and_the_declared_one_is_none() -> None:
    assert Variant(kv_cache_len=512).settled([32], 512) == Variant()
    longer = Variant(prefill=(8,), kv_cache_len=512).settled([32], 256)
    assert longer.name == "prefill=8,kv-cache=512"
    assert parse_variant(longer.name) == longer
    assert VariantOptions(kv_cache_len=512).given() == ["--kv-cache-len"]
    assert VariantOptions.exactly(longer).applied_to(Variant()) == longer


@pytest.mark.parametrize("length", [0, -1, -(10**30)])
def test_a_cache_that_holds_nothing_is_refused(length: int) -> None:
    with pytest.raises(UsageError, match=r"--kv-cache-len .* holds no token"):
        VariantOptions(kv_cache_len=length)


@pytest.mark.parametrize("text", ["9" * 5000, "1" * 16, "0", "8,,8", "", "\u0663"])
def test_lengths_of_any_kind_are_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(UsageError, match="not a list of lengths") as refused:
        parse_prefill(text)
    assert len(str(refused.value)) < 200


def test_a_length_that_is_given_twice_counts_once() -> None:
    assert parse_prefill("32,8, 32") == (8, 32)


def test_given_options_are_named_as_they_are_typed() -> None:
    assert VariantOptions().given() == []
    assert VariantOptions(False, "default", True, (8,)).given() == [
        "--no-hlfb",
        "--kv-layout",
        "--mask-as-input",
        "--prefill",
    ]


# --- layouts -------------------------------------------------------------------------------------------------------


def test_a_transposed_cache_is_read_as_the_default_one() -> None:
    canonical = np.random.default_rng(0).normal(size=(1, 7, 2, 5))  # time, kv_heads and head_dim all differ
    k, v = canonical.transpose(0, 2, 1, 3), canonical.transpose(0, 2, 3, 1)
    assert np.array_equal(canonical_cache(k, "k", "transposed"), canonical)
    assert np.array_equal(canonical_cache(v, "v", "transposed"), canonical)
    assert canonical_cache(canonical, "k", "default") is canonical


@pytest.mark.parametrize("sizes", [(64, 1, 128), (64, 4, 64), (4, 4, 64), (64, 64, 64)], ids=str)
def test_a_files_kv_layout_is_told_by_its_shapes(sizes: tuple[int, int, int]) -> None:
    time, heads, width = sizes
    shapes = {"default": (1, time, heads, width), "transposed": (1, heads, width, time)}
    for layout, shape in shapes.items():
        found = cache_of(file_with_v(shape), decode, heads, width, "m")  # type: ignore[arg-type]
        # Where all three sizes are equal both shapes are the same, and only there.
        assert found == (time, "default" if time == heads == width else layout)


def test_another_models_cache_is_refused() -> None:
    with pytest.raises(UsageError, match="KV cache of 1x64x3x128"):
        cache_of(file_with_v((1, 64, 3, 128)), decode, 4, 128, "m")  # type: ignore[arg-type]


@dataclasses.dataclass
class decode:  # noqa: N801
    subgraph = 0
    inputs = {"kv_cache_v_0": 0}  # noqa: RUF012


class file_with_v:  # noqa: N801
    path = "m.tflite"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.tensors = [type("Tensor", (), {"shape": shape})]

    def subgraph(self, index: int) -> file_with_v:
        return self


# --- views ---------------------------------------------------------------------------------------------------------

LAYOUT = HeadLayout(heads=6, kv_heads=2, head_dim=4)


def source(view: str, *moves: tuple[str, tuple[int, ...]]) -> TapSource:
    return TapSource("t", 0, 0, view, "n", "OP", moves=moves)


def test_moves_of_the_graph_are_repeated_before_a_tensor_is_viewed() -> None:
    queries = np.random.default_rng(0).normal(size=(1, 5, 6, 4))  # [batch, time, heads, head_dim]
    untouched = source("heads_first", ("transpose", (0, 2, 1, 3)), ("reshape", (6, 5, 4)))
    assert np.array_equal(view_tensor(queries, untouched, LAYOUT), queries)
    grouped = queries.transpose(0, 2, 1, 3).reshape(1, 2, 15, 4)  # [1, kv_heads, group * time, head_dim]
    assert np.array_equal(view_tensor(grouped, source("heads_first"), LAYOUT), queries)


@pytest.mark.parametrize("shape", [(1, 6, 5, 9), (6, 5, 9), (1, 2, 15, 9)], ids=str)
def test_probabilities_are_read_in_every_shape_that_attention_gives_them(shape: tuple[int, ...]) -> None:
    probabilities = np.random.default_rng(0).normal(size=(1, 6, 5, 9))
    viewed = view_tensor(probabilities.reshape(shape), source("probs"), LAYOUT)
    assert np.array_equal(viewed, probabilities.transpose(0, 2, 1, 3))


def test_a_linear_layer_without_a_batch_axis_gives_rows_all_the_same() -> None:
    rows = np.arange(15.0).reshape(5, 3)
    assert np.array_equal(view_tensor(rows, source("rows"), LAYOUT), rows[None])


def test_a_fused_gate_and_up_projection_is_read_in_halves() -> None:
    both = np.arange(12.0).reshape(1, 2, 6)
    assert np.array_equal(view_tensor(both, source("split_gate"), LAYOUT), both[..., :3])
    assert np.array_equal(view_tensor(both, source("split_up"), LAYOUT), both[..., 3:])


def test_the_mask_that_a_runtime_feeds_is_causal_finite_and_hides_padding_altogether() -> None:
    mask = device_mask(np.arange(4, 8, dtype=np.int32), valid=3, kv_cache_len=10)
    assert mask.shape == (1, 1, 4, 10)
    assert mask.dtype == np.float32
    assert np.isfinite(mask).all()
    assert [(row == 0).sum() for row in mask[0, 0]] == [5, 6, 7, 0]
    assert (mask[mask != 0] == mask.min()).all()
    assert np.exp(mask.min() - np.float32(0)) == 0
