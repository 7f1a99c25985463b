"""Tolerance rules: ordered, total, and closed to NaN."""

import math
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.judge.rules import Rule, judge, load_rules
from harness.pipeline.findings import crashed, local_findings
from harness.processes.scheduler import TaskResult

CLEAN = {
    "excess": 1.2,
    "position_excess": 3.0,
    "noise_floor": 1e-6,
    "nan_count": 0,
    "inf_count": 0,
    "flips_above_noise": 0.0,
}


def rules_in(tmp_path: Path, text: str) -> list[Rule]:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    return load_rules(path)


@pytest.mark.parametrize("tap", ["embed", "block.0.attn.probs", "block.29.mlp.out", "logits"])
@pytest.mark.parametrize("positions", [1, 3, 4, 500])
def test_the_shipped_rules_judge_every_tap_of_every_length(tap, positions):
    found = judge(load_rules(), "any", "hf->reauthored", tap, positions, CLEAN)
    assert found.verdict == "pass"
    assert found.rule


@pytest.mark.parametrize(
    "broken",
    [
        {"excess": 4.1},
        {"position_excess": 16.1},
        {"noise_floor": 0.01},
        {"excess": math.nan},
        {"position_excess": math.nan},
        {"excess": math.inf},
        {"nan_count": 1},
        {"inf_count": 1},
    ],
)
def test_the_shipped_rules_fail_what_is_past_a_limit_and_say_which(broken):
    found = judge(load_rules(), "m", "hf->reauthored", "block.0.out", 64, CLEAN | broken)
    assert found.verdict == "fail"
    assert next(iter(broken)) in found.why


def test_a_flip_above_the_noise_fails_the_logits():
    found = judge(load_rules(), "m", "hf->reauthored", "logits", 64, CLEAN | {"flips_above_noise": 1.0})
    assert found.verdict == "fail"


def test_a_single_position_has_the_limit_of_a_position():
    figures = CLEAN | {"excess": 10.0, "position_excess": 10.0}
    assert judge(load_rules(), "m", "h", "block.0.out", 1, figures).verdict == "pass"
    assert judge(load_rules(), "m", "h", "block.0.out", 64, figures).verdict == "fail"


def test_a_tap_that_no_rule_matches_fails(tmp_path):
    rules = rules_in(tmp_path, '[[rule]]\ntap = "block.*"\nexcess = 4\n')
    found = judge(rules, "m", "h", "logits", 64, CLEAN)
    assert found.verdict == "fail"
    assert "no tolerance rule" in found.why


def test_the_first_rule_that_matches_decides(tmp_path):
    rules = rules_in(
        tmp_path,
        '[[rule]]\nname = "loose"\nhop = "*builtin"\ntap = "block.1.*"\nexcess = 100\n'
        '[[rule]]\nname = "tight"\nexcess = 1.0\n',
    )
    assert judge(rules, "m", "a->tflite-builtin", "block.1.out", 64, CLEAN).rule == "loose"
    assert judge(rules, "m", "a->tflite-builtin", "block.11.out", 64, CLEAN).rule == "tight"
    assert judge(rules, "m", "a->tflite-xnnpack", "block.1.out", 64, CLEAN).verdict == "fail"


def test_a_hop_with_brackets_is_matched_by_its_own_name(tmp_path):
    hop = "fakequant[dynamic_int8]->tflite-xnnpack[dynamic_int8]"
    rules = rules_in(tmp_path, f'[[rule]]\nhop = "{hop}"\nexcess = 4\n')
    assert judge(rules, "m", hop, "embed", 64, CLEAN).verdict == "pass"


def test_nan_fails_even_a_rule_that_does_not_mention_it(tmp_path):
    rules = rules_in(tmp_path, "[[rule]]\nrel_l2 = 0.9\n")
    found = judge(rules, "m", "h", "embed", 64, {"rel_l2": 0.0, "nan_count": 3, "inf_count": 0})
    assert found.verdict == "fail"
    assert "nan_count 3 > 0" in found.why


def test_a_lower_limit_fails_what_is_below_it_and_nan(tmp_path):
    rules = rules_in(tmp_path, "[[rule]]\ncosine = 0.99\n")
    counts = {"nan_count": 0, "inf_count": 0}
    assert judge(rules, "m", "h", "t", 9, counts | {"cosine": 0.995}).verdict == "pass"
    assert judge(rules, "m", "h", "t", 9, counts | {"cosine": 0.9}).verdict == "fail"
    assert judge(rules, "m", "h", "t", 9, counts | {"cosine": math.nan}).verdict == "fail"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[rule]]\nexces = 4\n", "did you mean 'excess'"),
        ("[[rule]]\nexcess_position = 4\n", "did you mean 'position_excess'"),
        ("[[rule]]\nerr_abs_max = 4\n", "did you mean 'max_abs_err'"),
        ("[[rule]]\nmax_position = 4\n", "did you mean 'max_positions'"),
        ("[[rule]]\nname = 'a'\n", "no limit"),
        ("[[rule]]\nexcess = 'four'\n", "must be a number"),
        ("[[rule]]\nexcess = nan\n", "must be a number"),
        ("[[rule]]\nkl_max = 1.0\n", 'tap = "logits"'),
        ("[[rule]]\ntap = 3\nexcess = 1\n", "must be text"),
        ("", "no [[rule]]"),
        ("[[rule", "is not TOML"),
    ],
)
def test_a_rule_file_that_is_wrong_says_what_to_write(tmp_path, text, says):
    with pytest.raises(UsageError, match=r"rules\.toml") as caught:
        rules_in(tmp_path, text)
    assert says in str(caught.value)


@pytest.mark.parametrize("status", ["crashed", "timeout"])
def test_a_local_pass_that_does_not_end_is_no_pass(status: str) -> None:
    """Its limits may be all that sees a fault."""
    results = {name: TaskResult(name, "ok") for name in ("oracle", "reauthored")}
    assert not crashed(results)
    results["reauthored.local"] = TaskResult("reauthored.local", status, detail="OSError: no space")
    assert crashed(results)
    (finding,) = local_findings(results)
    assert (finding.severity, finding.kind) == ("error", "runtime")
    assert "limits on local errors were not checked: OSError: no space" in finding.what
