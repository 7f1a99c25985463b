"""What pages say of quantised files: price and runtime told apart, hops under their recipe, layers worst first."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from record_factory import HOSTILE, make_run
from rich.console import Console

from harness.record.record import (
    Case,
    Fault,
    Finding,
    HopResult,
    LowestSnr,
    QuantisedLayer,
    RecipeResult,
    Record,
    write_record,
)
from harness.render.github import workflow_commands
from harness.render.html import write_report
from harness.render.index import write_index
from harness.render.junit import write_junit
from harness.render.markdown import summary
from harness.render.recipes import bar, hop_groups, recipe_groups, recipe_words, same_words, wrong_layers
from harness.render.sentences import headline, suspicion
from harness.render.terminal import print_summary
from harness.render.words import verdict_words

LONG = "dynamic_int4_block128"


def layer(name: str, error: float | None) -> QuantisedLayer:
    return QuantisedLayer(
        layer=name, tensor=f"a/b/{name}", grid="int8 channelwise", bits=8, size=2_000_000, error=error,
        nearest=error, best=error, cosine=1.0, saturated=0.0042,
    )  # fmt: skip


def price_of(hop: HopResult, recipe: str, stage: str, kl: float, flips: int) -> HopResult:
    assert hop.logits is not None
    logits = hop.logits.model_copy(update={"kl_mean": kl, "flips": flips, "flips_above_noise": flips, "positions": 333})
    lowest = LowestSnr(tap="block.1.mlp.out", input="long", snr_db=21.4)
    to = f"{stage}[{recipe}]"
    return hop.model_copy(
        update={
            "from_": "reauthored", "to": to, "worst": None, "worst_position": None, "lowest_snr": lowest,
            "logits": logits, "reason_codes": [],
        }
    )  # fmt: skip


def quantised(*recipes: str, builtin_kl: float = 2e-6, layers: int = 2) -> Record:
    """A passing run with two kernels on the file of each recipe."""
    record = make_run("pass")[0]
    model, xnnpack, builtin = record.hops
    hops = list(record.hops)
    for recipe in recipes:
        hops += [
            price_of(model, recipe, "fakequant", 2e-6, 1),
            price_of(model, recipe, "fakequant-builtin", builtin_kl, 1 if builtin_kl == 2e-6 else 4),
            xnnpack.model_copy(update={"from_": f"fakequant[{recipe}]", "to": f"tflite-xnnpack[{recipe}]"}),
            builtin.model_copy(update={"from_": f"fakequant-builtin[{recipe}]", "to": f"tflite-builtin[{recipe}]"}),
        ]
    held = [layer(f"block.{i}.mlp.up", 0.01 * (i + 1)) for i in range(layers)]
    results = [RecipeResult(name=recipe, mb=272.0, float32_mb=541.0, layers=held) for recipe in recipes]
    return record.model_copy(update={"hops": hops, "recipes": results})


def terminal(record: Record, width: int = 80) -> str:
    written = io.StringIO()
    print_summary(record, make_run("pass")[1], Path("run"), Console(file=written, width=width))
    return written.getvalue()


def test_a_recipe_is_a_sentence_of_size_price_and_runtimes() -> None:
    (group,) = recipe_groups(quantised("fp16"))
    said = recipe_words(group)
    assert said.startswith(
        "fp16: 272 MB of 541 MB, costs a mean KL of 2.00e-06 nats, 1 of 333 top tokens changed; XNNPACK"
    )
    assert said.count("mean KL") == 1  # both definitions cost the same, so it is said once


def test_a_second_price_is_said_where_builtin_kernels_quantise_otherwise() -> None:
    (group,) = recipe_groups(quantised("dynamic_int8", builtin_kl=5e-2))
    assert "with inputs quantised as builtin kernels do KL 0.0500 and 4 of 333" in recipe_words(group)


def test_a_runtime_that_fails_is_said_to_and_where() -> None:
    record = quantised("fp16")
    failing = record.hops[-1].model_copy(
        update={"verdict": "fail", "first_failing_tap": "block.1.mlp.out", "reasons": ["1 tap fails"]}
    )
    (group,) = recipe_groups(record.model_copy(update={"hops": [*record.hops[:-1], failing]}))
    assert recipe_words(group).endswith("builtin kernels differ from fakequant-builtin (first at block.1.mlp.out)")


def test_hops_stand_under_their_recipe_and_prices_meet_their_runtime() -> None:
    plain, first, second = hop_groups(quantised("fp16", "dynamic_int8"))
    assert (plain.name, len(plain.hops)) == ("", 3)
    assert (first.name, second.name) == ("fp16", "dynamic_int8")
    assert [(price.to, runtime.to) for price, runtime in first.chains if price and runtime] == [
        ("fakequant[fp16]", "tflite-xnnpack[fp16]"),
        ("fakequant-builtin[fp16]", "tflite-builtin[fp16]"),
    ]


def test_a_page_of_80_columns_breaks_no_name_of_a_hop_or_recipe() -> None:
    said = terminal(quantised("fp16", "weight_only_int8", LONG))
    lines = [line.strip() for line in said.splitlines()]
    assert max(map(len, said.splitlines())) <= 80
    assert {"fp16", "weight_only_int8", LONG} <= set(lines)
    assert sum(line.startswith("->tflite-builtin") for line in lines) == 2 * 4  # of the two tables, plain and by recipe
    assert not any(line.startswith("[") for line in lines)


def test_a_price_is_not_called_faithful() -> None:
    said = verdict_words(quantised("fp16", "dynamic_int8"))
    assert "TFLite computes the files of fp16 and dynamic_int8 as written" in said
    assert "The mean KL that quantising costs is 2.00e-06 nats for fp16 and 2.00e-06 for dynamic_int8." in said
    assert "fakequant" not in said
    assert "numbers of the quantised file" not in said


def test_a_recipe_that_leaves_nothing_is_named_by_itself() -> None:
    record = quantised("fp16")
    lost = record.hops[3].model_copy(
        update={"verdict": "fail", "first_failing_tap": "block.0.attn.q", "reasons": ["1 tap fails"]}
    )
    hops = [*record.hops[:3], lost, *record.hops[4:]]
    said = verdict_words(record.model_copy(update={"hops": hops, "verdict": "fail"}))
    assert said.startswith("Recipe fp16 diverges from block 0's query projection")


def test_the_summary_lists_recipes() -> None:
    said = summary(quantised("fp16"), Path("run"))
    assert "### Quantised files\n\n- <code>fp16</code>: 272 MB of 541 MB" in said
    assert "| SNR 21.4 dB |" in said


def test_hops_of_which_the_same_is_said_are_named_once() -> None:
    names = ["reauthored->tflite-xnnpack", *(f"fakequant[{one}]->tflite-xnnpack[{one}]" for one in ("a", "b"))]
    assert same_words(names) == "reauthored->tflite-xnnpack; fakequant->tflite-xnnpack (a, b)"
    assert same_words(names[:2]) == "reauthored->tflite-xnnpack; fakequant[a]->tflite-xnnpack[a]"


@pytest.mark.parametrize("error", [None, 0.0])
def test_a_bar_is_drawn_of_what_is_no_number_too(error: float | None) -> None:
    assert bar(layer("embed", error), layer("embed", error)) == ("1" if error is None else "0")


def test_layers_are_worst_first_and_what_is_not_known_above_all() -> None:
    layers = [layer("a", 0.1), layer("b", None), layer("c", 0.2)]
    record = quantised("fp16").model_copy(update={"recipes": [RecipeResult(name="fp16", layers=layers)]})
    (group,) = recipe_groups(record)
    assert [one.layer for one in group.worst_layers] == ["b", "c", "a"]


def test_a_layer_that_is_wrong_is_marked(tmp_path: Path) -> None:
    finding = Finding(
        kind="weights",
        code="recipe-weight-wrong",
        severity="error",
        what="x",
        owner="recipe fp16",
        key="block.0.mlp.up",
    )
    record = quantised("fp16").model_copy(update={"findings": [finding]})
    assert wrong_layers(record) == {("fp16", "block.0.mlp.up")}
    page = write_report(tmp_path, record, make_run("pass")[1]).read_text()
    assert page.count('class="bar wrong"') == 1
    assert 'id="recipes"' in page


def test_the_report_shows_the_worst_layers_and_says_how_many_there_are(tmp_path: Path) -> None:
    page = write_report(tmp_path, quantised("fp16", layers=50), make_run("pass")[1]).read_text()
    assert page.count('<svg class="bar"') == 40
    assert "The worst 40 of 50" in page


def test_a_run_without_recipes_has_no_such_part(tmp_path: Path) -> None:
    page = write_report(tmp_path, *make_run("pass")).read_text()
    assert 'id="recipes"' not in page
    assert "Quantised files" not in page


def test_names_of_recipes_and_layers_are_escaped(tmp_path: Path) -> None:
    results = [RecipeResult(name=HOSTILE, layers=[layer(HOSTILE, 0.1)])]
    record = quantised("fp16").model_copy(update={"recipes": results})
    page = write_report(tmp_path, record, make_run("pass")[1]).read_text()
    assert "<script>alert" not in page
    assert "<script>" not in summary(record, Path("run"))
    assert "\x1b[31mred" not in terminal(record)


REASON = "kl_mean 0.0077 > 0.0001"


def too_dear() -> Record:
    """A run of which nothing is wrong but what the recipe costs."""
    record = quantised("fp16")
    hops = [
        hop.model_copy(update={"verdict": "fail", "first_failing_tap": "logits", "reasons": ["1 tap fails"]})
        if hop.to == "fakequant[fp16]"
        else hop
        for hop in record.hops
    ]
    name = "reauthored->fakequant[fp16]"
    fault = Fault(
        hop=name, tap="logits", block=None, input="long", modules={}, reason=REASON, broken=["kl_mean"],
        owner="recipe fp16", evidence=["fakequant[fp16] is reauthored with the numbers of the file"],
    )  # fmt: skip
    case = Case(input="long", hop=name, verdict="fail", first_failing_tap="logits", message=f"{name}: {REASON}")
    found = {"hops": hops, "verdict": "fail", "faults": [fault], "cases": [*record.cases, case]}
    return record.model_copy(update=found)


def test_a_recipe_that_costs_too_much_is_said_to_with_the_limit_and_without_an_excess(tmp_path: Path) -> None:
    record = too_dear()
    assert headline(record) == f"Recipe fp16 costs more than its limit allows at logits: {REASON}."
    assert f"Recipe fp16 costs more than its limit allows at the logits: {REASON}." in verdict_words(record)
    (failure,) = ElementTree.parse(write_junit(tmp_path, record)).getroot().iter("failure")
    assert "owner: recipe fp16" in (failure.text or "")
    (error,) = (said for said in workflow_commands(record, "models/x.py") if said.startswith("::error"))
    assert f"reauthored->fakequant[fp16] first at logits (the logits), {REASON}; owner: recipe fp16" in error
    report = write_report(tmp_path, record, make_run("pass")[1]).read_text(encoding="utf-8")
    assert f"<dt>limit</dt><dd><b>{REASON.replace('>', '&gt;')}</b>" in report
    written = [failure.text or "", error, summary(record, tmp_path), terminal(record)]
    assert not [said for said in written if "NaN" in said or "excess None" in said]


def test_two_recipes_that_cost_too_much_alike_are_one_sentence() -> None:
    record = too_dear()
    (fault,) = record.faults
    other = fault.model_copy(update={"hop": "reauthored->fakequant-builtin[fp16]"})
    hops = [
        hop.model_copy(update={"verdict": "fail"}) if hop.to == "fakequant-builtin[fp16]" else hop
        for hop in record.hops
    ]
    said = verdict_words(record.model_copy(update={"hops": hops, "faults": [fault, other]}))
    assert "fp16 with inputs quantised as builtin kernels do cost more than its limit allows" in said


def test_a_price_hop_out_of_a_file_that_holds_nan_is_no_matter_of_limits() -> None:
    record = too_dear()
    (fault,) = record.faults
    spoiled = fault.model_copy(update={"evidence": ["NaN from fakequant[fp16]", "constant w2 holds 2 Inf"]})
    said = headline(record.model_copy(update={"faults": [spoiled]}))
    assert said == "Hop reauthored->fakequant[fp16] cannot be judged from logits on: constant w2 holds 2 Inf."


def test_the_list_of_runs_has_size_price_and_runtimes_of_each_quantised_file(tmp_path: Path) -> None:
    record, frame = quantised("fp16", "int8"), make_run("pass")[1]
    folder = tmp_path / record.model / record.run_id
    folder.mkdir(parents=True)
    write_record(folder, record, frame)
    page = write_index(tmp_path).read_text(encoding="utf-8")
    row = " ".join(re.sub(r"<[^>]+>", "", page[page.index("All runs") :]).split())
    assert "fp16, 272 MB, KL 2e-06" in row.replace("2.00e-06", "2e-06")
    assert "; int8, 272 MB, KL" in row
    assert row.count("XNNPACK") == row.count("builtin kernels") == 2


def test_a_runtime_hop_that_failed_was_judged_whoever_owns_its_fault() -> None:
    hop = "fakequant[fp16]->tflite-xnnpack[fp16]"
    (before,) = too_dear().faults
    wrong = before.model_copy(update={"hop": hop, "owner": "recipe fp16", "excess": 250.0, "evidence": ["a", "b"]})
    record = too_dear().model_copy(update={"faults": [wrong]})
    assert headline(record) == f"Parity is lost in {hop}, first at {wrong.tap}."
    assert "Suspect the file" in suspicion(record)
    not_finite = record.model_copy(update={"faults": [wrong.model_copy(update={"excess": float("nan")})]})
    assert headline(not_finite) == f"Hop {hop} cannot be judged from {wrong.tap} on: b."
