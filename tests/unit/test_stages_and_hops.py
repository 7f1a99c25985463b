"""Which stages and hops there are: each hop knows what its errors are measured in, and a name leads back to it."""

from __future__ import annotations

import pytest

from harness.names.stages import (
    FLOAT,
    Floor,
    Hop,
    every_stage,
    float32_stages,
    hops_of,
    known_stage,
    quantised_hops,
    register,
    runs_file,
    stage_named,
    standard_hops,
)

RECIPE = "dynamic_int8"


@pytest.mark.parametrize("hop", [*standard_hops(), *quantised_hops([RECIPE])], ids=lambda hop: hop.name)
def test_a_hop_s_name_leads_back_to_it(hop: Hop) -> None:
    assert Hop.parse(hop.name) == hop == Hop.between(*hop.stages)


@pytest.mark.parametrize("name", ["", "hf", "->hf", "hf->", "hf->reauthored->tflite-builtin"])
def test_what_is_not_a_hop_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a hop"):
        Hop.parse(name)


def test_kernels_of_one_quantised_file_have_a_floor_of_their_own() -> None:
    assert {hop.floor for hop in standard_hops()} == {Floor.NOISE}
    assert {hop.floor for hop in quantised_hops([RECIPE])} == {Floor.KERNELS}
    other = Hop.between(f"tflite-builtin[{RECIPE}]", "tflite-xnnpack[fp16]")
    assert other.floor is Floor.NOISE, "two files are no kernels of one"


def test_errors_against_hf_are_taken_against_the_oracle() -> None:
    against = {hop.name: hop.judged_against for hop in standard_hops()}
    assert against["hf->reauthored"] == "oracle"
    assert against["reauthored->tflite-builtin"] == "reauthored"


def test_a_run_has_the_hops_both_of_whose_stages_it_has() -> None:
    assert hops_of(("oracle", "hf", "tflite-builtin")) == ()
    assert hops_of(float32_stages()) == standard_hops()
    assert [hop.name for hop in hops_of(("hf", "reauthored", "tflite-xnnpack"))] == [
        "hf->reauthored",
        "reauthored->tflite-xnnpack",
    ]


def test_every_stage_is_compared_with_stages_that_come_before_it() -> None:
    """The pipeline runs one way: a stage that waited for a later one would wait for ever."""
    order = [stage.name for stage in every_stage()]
    for stage in every_stage():
        for before in (stage.reference, stage.local_reference, stage.exact):
            assert not before or order.index(before) < order.index(stage.name)


def test_a_quantised_stage_is_the_same_one_on_another_file() -> None:
    stage = stage_named(f"tflite-xnnpack[{RECIPE}]")
    assert (stage.base, stage.recipe) == ("tflite-xnnpack", RECIPE)
    assert stage.reference == f"tflite-builtin[{RECIPE}]"
    assert stage.local_reference == "", "no local pass of a quantised file"
    assert stage_named("tflite-xnnpack").recipe == FLOAT


def test_a_name_from_elsewhere_is_no_stage_and_runs_no_file() -> None:
    assert known_stage("tflite-of-another-version") is None
    assert not runs_file("tflite-of-another-version")
    with pytest.raises(ValueError, match="there is a stage 'hf' already"):
        register(stage_named("hf"))
