"""Which stages and hops there are: each hop knows what its errors are measured in, and a name leads back to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.names.stages import (
    BUILTIN,
    FAKEQUANT,
    FLOAT,
    REAUTHORED,
    REFERENCE,
    XNNPACK,
    Floor,
    Hop,
    every_stage,
    float32_stages,
    hops_of,
    known_stage,
    local_reference,
    present,
    quantised_hops,
    register,
    route_stages,
    runs_file,
    stage_named,
    standard_hops,
    unregister,
)

RECIPE = "dynamic_int8"


@pytest.mark.parametrize("hop", [*standard_hops(), *quantised_hops([RECIPE])], ids=lambda hop: hop.name)
def test_a_hop_s_name_leads_back_to_it(hop: Hop) -> None:
    assert Hop.parse(hop.name) == hop == Hop.between(*hop.stages)


@pytest.mark.parametrize("name", ["", "hf", "->hf", "hf->", "hf->reauthored->tflite-builtin"])
def test_what_is_not_a_hop_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a hop"):
        Hop.parse(name)


def test_each_hop_of_a_quantised_file_has_the_floor_of_what_it_shows() -> None:
    assert {hop.floor for hop in standard_hops()} == {Floor.NOISE}
    assert {hop.name: hop.floor for hop in quantised_hops([RECIPE])} == {
        f"reauthored->fakequant[{RECIPE}]": Floor.PRICE,
        f"reauthored->fakequant-builtin[{RECIPE}]": Floor.PRICE,
        f"keras->fakequant[{RECIPE}]": Floor.PRICE,
        f"keras->fakequant-builtin[{RECIPE}]": Floor.PRICE,
        f"fakequant[{RECIPE}]->tflite-xnnpack[{RECIPE}]": Floor.RUNTIME,
        f"fakequant-builtin[{RECIPE}]->tflite-builtin[{RECIPE}]": Floor.RUNTIME,
        f"tflite-builtin[{RECIPE}]->tflite-reference[{RECIPE}]": Floor.KERNELS,
    }
    other = Hop.between(f"tflite-builtin[{RECIPE}]", "tflite-xnnpack[fp16]")
    assert other.floor is Floor.NOISE, "two files are no kernels of one"


def test_what_a_recipe_costs_and_kernels_are_told_by_snr_and_a_runtime_is_not() -> None:
    price, *_, runtime, _, kernels = quantised_hops([RECIPE])
    assert (price.by_snr, runtime.by_snr, kernels.by_snr) == (True, False, True)
    assert (price.on_kernels, runtime.on_kernels, kernels.on_kernels) == (False, False, True)
    assert runtime.unrounded.startswith(runtime.reference)
    assert price.unrounded == kernels.unrounded == standard_hops()[0].unrounded == ""


def test_errors_against_hf_are_taken_against_the_oracle() -> None:
    against = {hop.name: hop.judged_against for hop in standard_hops()}
    assert against["hf->reauthored"] == "oracle"
    assert against["reauthored->tflite-builtin"] == "reauthored"


def test_a_run_has_the_hops_both_of_whose_stages_it_has() -> None:
    assert hops_of(("oracle", "tflite-builtin")) == ()
    exported = [hop for hop in standard_hops() if hop.stages in (("hf", "tflite-xnnpack"), ("hf", "tflite-builtin"))]
    assert hops_of(("oracle", "hf", "tflite-builtin")) == tuple(exported[1:])
    assert set(hops_of(float32_stages())) == set(standard_hops()) - set(exported)
    assert [hop.name for hop in hops_of(("hf", "reauthored", "tflite-xnnpack"))] == [
        "hf->reauthored",
        "reauthored->tflite-xnnpack",
    ]


def test_every_stage_is_compared_with_stages_that_come_before_it() -> None:
    """The pipeline runs one way: a stage that waited for a later one would wait for ever."""
    order = [stage.name for stage in every_stage()]
    for stage in every_stage():
        for before in (
            stage.reference,
            stage.quantised_reference,
            stage.local_reference,
            stage.quantised_local,
            stage.exact,
        ):
            assert not before or order.index(before) < order.index(stage.name)


def test_a_quantised_stage_is_the_same_one_on_another_file() -> None:
    stage = stage_named(f"tflite-xnnpack[{RECIPE}]")
    assert (stage.base, stage.recipe) == ("tflite-xnnpack", RECIPE)
    assert stage.reference == stage.local_reference == f"fakequant[{RECIPE}]"
    assert stage_named(f"fakequant[{RECIPE}]").reference == "reauthored", "which has nothing of the file"
    assert stage_named(f"tflite-reference[{RECIPE}]").local_reference == ""
    assert stage_named("tflite-xnnpack").recipe == FLOAT


def test_a_stage_without_a_reference_has_none_whatever_runs_beside_it() -> None:
    assert present("", float32_stages()) == ""
    assert present(REAUTHORED, float32_stages()) == REAUTHORED
    assert present(REAUTHORED, ("oracle",)) == REAUTHORED


def test_where_the_published_model_is_exported_itself_the_file_is_held_against_it_and_its_exact_values() -> None:
    stages = route_stages("hf")
    assert stages == ("oracle", "hf", "tflite-xnnpack", "tflite-builtin")
    assert [hop.name for hop in hops_of(stages)] == ["hf->tflite-xnnpack", "hf->tflite-builtin"]
    assert {hop.judged_against for hop in hops_of(stages)} == {"oracle"}
    assert local_reference(stage_named("tflite-xnnpack"), stages) == "oracle"
    assert local_reference(stage_named("tflite-xnnpack"), float32_stages()) == REAUTHORED


def test_a_name_from_elsewhere_is_no_stage_and_runs_no_file() -> None:
    assert known_stage("tflite-of-another-version") is None
    assert not runs_file("tflite-of-another-version")
    with pytest.raises(ValueError, match="there is a stage 'hf' already"):
        register(stage_named("hf"))


@pytest.fixture(params=[(REAUTHORED, Floor.PRICE), (XNNPACK, Floor.RUNTIME), (FAKEQUANT, Floor.KERNELS)])
def toy_hop(request: pytest.FixtureRequest) -> Iterator[Hop]:
    """The hop of a quantised file to a stage that this version does not bring."""
    reference, floor = request.param
    own = replace(stage_named(REFERENCE), name="toy", quantised_reference=reference, quantised_floor=floor)
    register(own)
    yield next(hop for hop in quantised_hops([RECIPE]) if hop.candidate == f"toy[{RECIPE}]")
    unregister("toy")


def test_the_floor_of_a_hop_is_what_the_registry_says_of_its_candidate(toy_hop: Hop) -> None:
    assert Hop.parse(toy_hop.name) == toy_hop
    assert toy_hop.floor is stage_named(toy_hop.candidate).quantised_floor


def test_a_runtime_that_is_held_against_a_toy_of_the_file_s_numbers_is_a_runtime() -> None:
    register(replace(stage_named(FAKEQUANT), name="toy"))
    try:
        assert Hop.between(f"toy[{RECIPE}]", f"{BUILTIN}[{RECIPE}]").floor is Floor.RUNTIME
        assert Hop.between("hf", f"toy[{RECIPE}]").floor is Floor.PRICE
    finally:
        unregister("toy")


def test_stages_that_the_registry_does_not_know_are_kernels_of_the_file_that_both_run() -> None:
    assert Hop.between(f"old[{RECIPE}]", f"older[{RECIPE}]").floor is Floor.KERNELS
    assert Hop.between(f"old[{RECIPE}]", "older").floor is Floor.NOISE
