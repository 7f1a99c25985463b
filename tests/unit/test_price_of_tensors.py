"""Which inputs a sensitivity is measured on, and what is said to make a tensor cost much."""

from __future__ import annotations

import pytest

from harness.jobs.job import JobInput
from harness.names.codes import CostCause
from harness.price.sensitivity import inputs_for_sensitivity
from harness.price.why import with_causes
from harness.record.recipes import QuantisedLayer, RecipeResult
from harness.record.sensitivity import Sensitivity, TensorSensitivity
from harness.render.sensitivity import CAUSES, dearest, sensitivity_words


def item(name: str, tokens: list[int], text: str | None = "text") -> JobInput:
    return JobInput(id=name, tokens=tokens, text=text)


def test_text_comes_first_the_longest_first_and_the_last_is_cut() -> None:
    items = [item("random", list(range(100)), None), item("short", [7, 8, 9, 10]), item("long", list(range(50, 90)))]
    chosen = inputs_for_sensitivity(items, positions=60)
    assert [(one.id, len(one.tokens)) for one in chosen] == [("long", 40), ("short", 4), ("random", 16)]


def test_an_input_that_another_begins_with_is_not_measured_twice() -> None:
    chosen = inputs_for_sensitivity([item("a", [1, 2, 3]), item("b", [1, 2, 3, 4, 5])], positions=60)
    assert [one.id for one in chosen] == ["b"]


def test_a_model_with_one_short_input_is_measured_on_it() -> None:
    assert [one.id for one in inputs_for_sensitivity([item("one", [3])], positions=60)] == ["one"]


def tensor(name: str, gain: float, **figures: float) -> TensorSensitivity:
    known = {"local_error": 0.01, "inputs_share": 0.4, "outlier_share": 0.03, "kl": 1e-3 - gain, **figures}
    return TensorSensitivity.model_validate({"tensor": name, "layer": name, "size": 10, "gain": gain, **known})


def layer(name: str, error: float, best: float) -> QuantisedLayer:
    return QuantisedLayer(
        layer=name, tensor=name, grid="int8", bits=8, size=10, error=error, nearest=error, best=best, cosine=1.0
    )


CHEAP = [tensor(f"block.{number}.mlp.up", 1e-5) for number in range(20)]


@pytest.mark.parametrize(
    ("dear", "near", "cause"),
    [
        (tensor("block.3.mlp.gate", 4e-4), layer("block.3.mlp.gate", 0.03, 0.01), CostCause.SCALE),
        (tensor("block.3.mlp.gate", 4e-4, outlier_share=0.6), None, CostCause.OUTLIER_CHANNELS),
        (tensor("block.3.mlp.gate", 4e-4, inputs_share=0.9), None, CostCause.INPUTS),
        (tensor("block.3.attn.k", 4e-4), None, CostCause.BEFORE_SOFTMAX),
        (tensor("logits", 4e-4), None, CostCause.HEAD),
        (tensor("embed, logits", 4e-4), None, CostCause.HEAD),
        (tensor("embed", 4e-4), None, CostCause.EMBEDDING),
        (tensor("block.3.mlp.gate", 4e-4), layer("block.3.mlp.gate", 0.01, 0.01), CostCause.NUMBERS),
        (tensor("block.3.attn.k", 1e-5, outlier_share=0.9), None, ""),
    ],
)
def test_only_what_stands_out_has_a_cause(dear: TensorSensitivity, near: QuantisedLayer | None, cause: str) -> None:
    found = with_causes(Sensitivity(positions=64, kl=1e-3, tensors=[*CHEAP, dear]), [near] if near else [])
    assert [one.why for one in found.tensors] == [*[""] * len(CHEAP), cause]


def test_a_cost_that_is_not_known_stands_first_and_has_no_cause() -> None:
    lost = tensor("block.3.mlp.gate", 4e-4).model_copy(update={"kl": None, "gain": None})
    found = with_causes(Sensitivity(positions=64, kl=1e-3, tensors=[*CHEAP, lost]), [])
    assert dearest(found)[0].tensor == "block.3.mlp.gate"
    assert found.tensors[-1].why == ""


def test_every_cause_has_words_and_the_dearest_is_named_first() -> None:
    assert set(CAUSES) == set(CostCause)
    found = Sensitivity(positions=64, kl=1e-3, tensors=[*CHEAP, tensor("logits", 4e-4)])
    said = sensitivity_words(RecipeResult(name="r", sensitivity=with_causes(found, [])))
    assert said.startswith("r costs most at logits (40 % of its KL: its error stands in the logits as it is); ")
    assert sensitivity_words(RecipeResult(name="r")) == ""
