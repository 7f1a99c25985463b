"""What a recipe may cost: divergence by percentile, answers, families, and limits on what is of no single input."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from harness.compare.logits import LogitTally, percentiles
from harness.compare.metrics import logit_stats
from harness.errors import UsageError
from harness.judge.rules import Rule, check_all_judged, judge, judge_hop, judge_local, load_rules
from harness.names.recipe_families import FAMILIES, family_of
from harness.names.stages import quantised_hops

PRICE = "reauthored->fakequant[dynamic_int8]"
RUNTIME = "fakequant[dynamic_int8]->tflite-xnnpack[dynamic_int8]"
BUDGET = 'hop = "reauthored->fakequant*"\ntap = "logits"\n'
TEXT = {"kl_mean": 0.02, "kl_max": 0.4, "kl_p50": 0.01, "kl_p95": 0.1, "kl_p99": 0.2}
TEXT |= {"flips": 9.0, "answer_flips": 3.0, "top1_agreement": 0.9, "perplexity_ratio": 1.05}


def rules_of(tmp_path: Path, *rules: str) -> list[Rule]:
    path = tmp_path / "rules.toml"
    path.write_text("".join(f"[[rule]]\n{rule}\n" for rule in rules))
    return load_rules(path)


def test_a_percentile_is_a_value_that_a_position_has_by_nearest_rank() -> None:
    assert percentiles(np.arange(1.0, 201.0)) == {"kl_p50": 100.0, "kl_p95": 190.0, "kl_p99": 198.0}
    few = percentiles(np.array([3.0, 1.0, 2.0]))
    assert few == {"kl_p50": 2.0, "kl_p95": 3.0, "kl_p99": 3.0}
    assert percentiles(np.array([7.0])) == dict.fromkeys(few, 7.0)


def test_nan_at_one_position_of_a_thousand_is_no_percentile() -> None:
    kl = np.zeros(1000)
    kl[3] = math.nan
    assert all(map(math.isnan, percentiles(kl).values()))


def logits_with_top(*tokens: int) -> np.ndarray:
    values = np.zeros((1, len(tokens), 8), np.float32)
    values[0, np.arange(len(tokens)), tokens] = 4.0
    return values


def tally_of(tokens: list[int], reference: np.ndarray, candidate: np.ndarray) -> LogitTally:
    tally, positions = LogitTally({"prose": tokens}), np.arange(reference.shape[1])
    tally.add("prose", positions, logit_stats(reference, candidate), np.zeros(positions.size))
    return tally


def test_an_answer_flips_where_one_side_alone_has_the_token_that_follows() -> None:
    # What follows is 1, 2, 3, 4. Lost at 0, won at 1, from wrong to wrong at 2, the same at 3, unknown at the last.
    found = tally_of([0, 1, 2, 3, 4], logits_with_top(1, 7, 6, 4, 5), logits_with_top(6, 2, 5, 4, 6)).result()
    assert (found.flips, found.answer_flips, found.answers) == (4, 2, 4)


def test_an_input_that_comes_from_no_text_has_no_answers() -> None:
    tally, top = LogitTally(), logits_with_top(1, 2)
    figures = tally.add("drawn", np.arange(2), logit_stats(top, top), np.zeros(2))
    assert "answer_flips" not in figures
    assert (tally.result().answer_flips, tally.result().answers) == (None, 0)
    rules = [Rule("asks", {"snr_db": 1.0, "answer_flips": 9.0})]
    assert judge(rules, "m", PRICE, "logits", 2, figures | {"snr_db": 9.0, "nan_count": 0, "inf_count": 0}).broken == (
        "answer_flips",
    )


@pytest.mark.parametrize(
    ("bits", "inputs", "family"),
    [
        ([32, 32], False, ""),
        ([], False, ""),
        ([16, 32], False, "float16"),
        ([8, 16], False, "weight_int8"),
        ([8, 32], True, "dynamic_int8"),
        ([8, 4], False, "weight_int4"),
        ([8, 4], True, "dynamic_int4"),
        ([2], True, "dynamic_int2"),
    ],
)
def test_a_file_is_of_the_family_of_its_narrowest_layer(bits: list[int], inputs: bool, family: str) -> None:
    assert family_of(bits, inputs) == family
    assert family in ("", *FAMILIES)


def test_a_rule_of_a_family_judges_no_other(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, f'name = "eight"\nfamily = "dynamic_int8"\n{BUDGET}kl_mean = 0.01', "snr_db = 1")
    figures = {"kl_mean": 0.02, "snr_db": 9.0, "nan_count": 0, "inf_count": 0}
    assert judge(rules, "m", PRICE, "logits", 9, figures, "dynamic_int8").rule == "eight"
    assert judge(rules, "m", PRICE, "logits", 9, figures, "dynamic_int8").verdict == "fail"
    for other in ("dynamic_int4", ""):
        assert judge(rules, "m", PRICE, "logits", 9, figures, other).verdict == "pass"


def test_local_limits_of_a_family_hold_for_it(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, 'family = "float16"\nhop = "fakequant*"\nexcess = 4\nlocal_excess = 2', "excess = 4")
    introduced = {"local_excess": 3.0}
    assert judge_local(rules, "m", RUNTIME, "embed", 9, introduced, "float16").verdict == "fail"
    assert judge_local(rules, "m", RUNTIME, "embed", 9, introduced, "dynamic_int8").verdict == "pass"


def test_rules_of_families_alone_leave_other_files_without_a_judge(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, 'family = "float16"\nsnr_db = 1')
    with pytest.raises(UsageError, match="without model, hop, family"):
        check_all_judged(rules, "m", quantised_hops(["fp16"]), ["logits"], 9)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ('tap = "logits"\nexcess = 4\nmb = 100', "matches hops that have none"),
        ('hop = "fakequant*"\ntap = "logits"\nexcess = 4\nmb = 100', "matches hops that have none"),
        ('hop = "reauthored->*"\ntap = "logits"\nexcess = 4\nmb = 100', "matches hops that have none"),
        (f"{BUDGET}kl_mean = 0.1\nmax_positions = 9\nmb = 100", "of no single input"),
        (f"{BUDGET}kl_mean = 0.1\nmax_positions = 9\nperplexity_ratio = 1.1", "of no single input"),
        (f"{BUDGET}mb = 100", "mb alone limits no tap's error"),
        (f"{BUDGET}perplexity_ratio = 1.1\nmb = 100", "mb and perplexity_ratio|perplexity_ratio and mb"),
        (f"{BUDGET}kl_p50 = 0.1", "kl_p50 alone"),
        (f"{BUDGET}kl_mean = 0.1\nperplexity_ratio = inf", "not finite"),
        (f"{BUDGET}kl_mean = 0.1\nperplexity_ratio = 3e5", "a guess among"),
        (f"{BUDGET}kl_p99 = 13", "a guess among"),
        (f"{BUDGET}kl_mean = 0.1\nmb = -1", "passes nothing"),
        ('hop = "reauthored->tflite*"\ntap = "logits"\nkl_p99 = 0.1', "kl_p99 alone"),
        (f'family = "int7"\n{BUDGET}kl_mean = 0.1', "family 'int7' matches no family"),
        ('family = "float16"\nhop = "hf->reauthored"\nexcess = 4', "not about a quantised file"),
        (f'text_optional = "yes"\n{BUDGET}kl_mean = 0.1', "text_optional must be true or false"),
        ("kl_p99 = 0.1\nexcess = 4", "figure of the logits alone"),
    ],
)
def test_a_budget_that_could_not_hold_is_refused_in_a_line(tmp_path: Path, rule: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        rules_of(tmp_path, rule)
    assert "\n" not in str(caught.value)


def test_a_budget_judges_the_text_and_the_file_beside_each_input(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, f"{BUDGET}kl_p99 = 0.3\nperplexity_ratio = 1.1\nmb = 150", "snr_db = 1")
    assert judge_hop(rules, "m", PRICE, "dynamic_int8", TEXT, 1000, 142.0).verdict == "pass"
    for text, mb, broken in (
        (TEXT | {"kl_p99": 0.4}, 142.0, ("kl_p99",)),
        (TEXT | {"perplexity_ratio": 1.2}, 142.0, ("perplexity_ratio",)),
        (TEXT | {"perplexity_ratio": math.nan}, 142.0, ("perplexity_ratio",)),
        (TEXT, 151.0, ("mb",)),
    ):
        found = judge_hop(rules, "m", PRICE, "dynamic_int8", text, 1000, mb)
        assert (found.verdict, found.broken) == ("fail", broken)
    rows = {"kl_p99": 0.1, "nan_count": 0, "inf_count": 0}
    assert judge(rules, "m", PRICE, "logits", 9, rows).verdict == "pass"  # an input has no file and no perplexity


def test_what_is_asked_and_not_known_fails_with_its_reason(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, f"{BUDGET}kl_p99 = 0.3\nperplexity_ratio = 1.1\nmb = 150", "snr_db = 1")
    found = judge_hop(rules, "m", PRICE, "", None, 0, None, "there is no tokenizer with these weights")
    assert set(found.broken) == {"mb", "perplexity_ratio"}
    assert "perplexity_ratio is limited to 1.1 and not known: there is no tokenizer with these weights" in found.why
    assert "mb is limited to 150 and not known" in found.why


def test_a_text_that_is_optional_fails_nothing_where_there_is_none_and_counts_where_there_is(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, f"text_optional = true\n{BUDGET}kl_p99 = 0.3\nperplexity_ratio = 1.01", "snr_db = 1")
    assert judge_hop(rules, "m", PRICE, "", None, 0, 1.0).verdict == "pass"
    assert judge_hop(rules, "m", PRICE, "", TEXT, 1000, 1.0).broken == ("perplexity_ratio",)
