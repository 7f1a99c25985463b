"""Limits limit something: what a rule may say, and that whoever reads a verdict is told of looser rules."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from record_factory import make_run

from harness.compare.traces import compare_traces
from harness.errors import UsageError
from harness.judge.limits import NOISE_FLOOR
from harness.judge.rules import Rule, check_all_judged, judge, load_rules, looser_than
from harness.names.coverage import Absence
from harness.names.figures import OF_THE_ERROR
from harness.names.stages import Hop, standard_hops
from harness.pipeline import run as pipeline
from harness.record.record import LooserRule
from harness.render.junit import write_junit
from harness.render.markdown import summary
from harness.render.sentences import headline
from harness.render.words import verdict_words
from harness.store.trace import TraceWriter

HOP = "reauthored->tflite-xnnpack"
GARBAGE = {  # figures of zeros in place of a tap whose noise floor is at its limit
    "excess": 1 / NOISE_FLOOR,
    "position_excess": 1 / NOISE_FLOOR,
    "total_excess": 1 / NOISE_FLOOR,
    "noise_floor": NOISE_FLOOR,
    "rel_l2": 1.0,
    "snr_db": 0.0,
    "cosine": 0.0,
    "max_abs_err": 4.0,
    "mean_abs_err": 2.0,
    "scale": 2.0,
    "nan_count": 0,
    "inf_count": 0,
}


def rules_of(tmp_path: Path, *rules: str) -> list[Rule]:
    path = tmp_path / "rules.toml"
    path.write_text("".join(f"[[rule]]\n{rule}\n" for rule in rules))
    return load_rules(path)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ("noise_floor = 1.0", "noise_floor = 1 limits nothing"),
        ("noise_floor = 1e-3", "noise_floor alone limits no tap's error"),
        ("excess = inf", "not finite"),
        ("excess = 4\nposition_excess = inf", "position_excess = inf limits nothing"),
        ("nan_count = 0\ninf_count = 0", "nan_count and inf_count alone limit no tap's error"),
        ("cosine = -2", "cosine = -2 limits nothing"),
        ("cosine = 0", "zeros in place of the tap have 0"),
        ("cosine = 1.5", "passes nothing"),
        ("excess = 1e30", "give less than 1000"),
        ("excess = 5000\nnoise_floor = 1e-3", "an error as large as the tap"),
        ("total_excess = 1e4", "give less than 1000"),
        ("excess = 4\nnoise_floor = inf", "not finite"),
        ("excess = 4\nnoise_floor = 0.5", "an error as large as the tap"),
        ("rel_l2 = 1.0", "zeros in place of the tap have 1"),
        ("rel_l2 = 40", "give less than 1"),
        ("snr_db = 0", "zeros in place of the tap have 0 dB"),
        ("snr_db = -120.0", "give more than 0"),
        ("snr_db = -inf", "not finite"),
        ("max_abs_err = 1e30", "float16"),
        ("mean_abs_err = inf", "not finite"),
        ("excess = -1", "passes nothing"),
        ("local_excess = 4", "local_excess alone limits no tap's error on every input"),
        ('tap = "logits"\nflips_above_noise = 0', "flips_above_noise alone"),
        ('tap = "logits"\nkl_max = 1e-9', "kl_max alone"),
        ('tap = "logits"\nexcess = 4\nkl_max = 1e9', "a guess among"),
        ('tap = "logits"\nexcess = 4\ntop1_agreement = -1', "no token at all"),
    ],
)
def test_a_rule_that_limits_no_error_is_refused_by_its_name(tmp_path: Path, limits: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        rules_of(tmp_path, 'name = "sound"\ntap = "embed"\nexcess = 4', f'name = "lax"\n{limits}')
    assert "'lax'" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(OF_THE_ERROR))
@pytest.mark.parametrize("limit", [0.999, 3.0, 999.0, 6.5e4])
def test_whatever_limit_is_taken_zeros_in_place_of_the_tap_break_it(tmp_path: Path, name: str, limit: float) -> None:
    try:
        rules = rules_of(tmp_path, f"{name} = {limit}")
    except UsageError:
        return
    assert judge(rules, "m", HOP, "block.0.out", 64, GARBAGE).verdict == "fail"


@pytest.mark.parametrize(
    "rule", ["excess = 4", "rel_l2 = 1e-4", "snr_db = 60", "cosine = 0.999", "max_abs_err = 1e-3", "excess = 0"]
)
def test_usual_limits_are_taken(tmp_path: Path, rule: str) -> None:
    assert rules_of(tmp_path, rule)


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ('hop = "nope->x"', "hop 'nope->x' matches no hop of any run; the hops are hf->reauthored, "),
        ('hop = "hf"', "hop 'hf' matches no hop"),
        ('hop = "reauthored->hf"', "reauthored->tflite-xnnpack, keras->tflite-xnnpack"),
        ('hop = "HF->*"', "hop 'HF->*' matches no hop"),
        ('hop = "tflite-reference[fp16]->*"', "tflite-builtin[RECIPE]->tflite-reference[RECIPE]"),
        ('hop = "tflite-builtin[fp16]->*"', "a bracket in a glob is written [[]"),
        ('hop = ""', "hop '' matches no hop"),
        ('tap = "nowhere"', "tap 'nowhere' matches no tap of any model; the taps are embed, final_norm, logits"),
        ('tap = "block.*.attn.query"', "attn.q, attn.k"),
        ('tap = "block.x.out"', "block.N.POINT"),
    ],
)
def test_a_rule_that_selects_nothing_that_there_is_is_refused_with_what_there_is(
    tmp_path: Path, selector: str, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        rules_of(tmp_path, "excess = 4", f'name = "lost"\n{selector}\nexcess = 4')
    assert "rule 'lost'" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "selector",
    [
        *(f'hop = "{hop.name}"' for hop in standard_hops()),
        'hop = "*->tflite-*"',
        'hop = "hf->*"',
        'hop = "*builtin"',
        'hop = "*"',
        'hop = "tflite-*[[]*->tflite-*[[]*"',
        'hop = "tflite-builtin[[]dynamic_int4_block32]->*"',
        'hop = "tflite-builtin[fp16]->tflite-reference[fp16]"',
        'hop = "*reference*"',
        'hop = "*[[]weight_only_int8]"',
        'tap = "*"',
        'tap = "l*"',
        'tap = "embed"',
        'tap = "block.*"',
        'tap = "block.0.cache.k"',
        'tap = "block.[0-3].out"',
        'tap = "block.119.mlp.gate"',
        'tap = "*.attn.*"',
        'model = "nobody"',
    ],
)
def test_a_rule_that_selects_something_that_a_run_may_have_is_taken(tmp_path: Path, selector: str) -> None:
    assert rules_of(tmp_path, f"{selector}\nexcess = 4")


FEW_TAPS = ["embed", "block.0.out", "logits"]


@pytest.mark.parametrize(
    ("rules", "positions", "unmatched"),
    [
        (['hop = "hf->*"\nexcess = 4'], 64, "hop reauthored->tflite-xnnpack, tap embed"),
        (['tap = "block.*"\nexcess = 4'], 64, "hop hf->reauthored, tap embed"),
        (['tap = "embed"\nexcess = 4', 'tap = "logits"\nexcess = 4'], 64, "hop hf->reauthored, tap block.0.out"),
        (["max_positions = 3\nexcess = 4"], 4, "hop hf->reauthored, tap embed"),
        (['model = "another"\nexcess = 4'], 64, "hop hf->reauthored, tap embed of mine"),
        (["max_positions = 3\nexcess = 4"], 3, None),
        (['hop = "hf->*"\nexcess = 4', "excess = 4"], 64, None),
        (['hop = "hf->*"\nexcess = 4', 'hop = "*tflite*"\nexcess = 4'], 64, None),
    ],
)
def test_a_tap_that_no_rule_judges_is_named_before_anything_runs(
    tmp_path: Path, rules: list[str], positions: int, unmatched: str | None
) -> None:
    loaded, file = rules_of(tmp_path, *rules), tmp_path / "rules.toml"
    if unmatched is None:
        check_all_judged(loaded, "mine", standard_hops(), FEW_TAPS, positions, file)
        return
    with pytest.raises(UsageError) as caught:
        check_all_judged(loaded, "mine", standard_hops(), FEW_TAPS, positions, file)
    said = str(caught.value)
    assert unmatched in said
    assert f"{positions} positions" in said
    assert said.startswith(f"tolerances {file}: ")
    assert 'end the rules with one for tap = "*"' in said


def test_a_run_whose_rules_leave_a_tap_out_ends_before_its_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, file = rules_of(tmp_path, "max_positions = 5\nexcess = 4"), tmp_path / "rules.toml"
    monkeypatch.setattr(pipeline, "processes", lambda *_, **__: pytest.fail("a stage ran"))
    inputs = [SimpleNamespace(tokens=[1] * length) for length in (2, 6, 3)]
    prepared: Any = SimpleNamespace(model="m", taps=FEW_TAPS, inputs=inputs)
    state: Any = SimpleNamespace(options=SimpleNamespace(tolerances=file))
    with pytest.raises(UsageError, match=r"no rule matches hop hf->reauthored, tap embed of m .* 6 positions"):
        pipeline.run_stages(state, prepared, ("oracle", "hf", "reauthored"), rules)


def test_an_excess_without_a_limit_on_the_noise_floor_has_the_shipped_one(tmp_path: Path) -> None:
    figures = GARBAGE | {"excess": 1.0, "noise_floor": 0.2}
    found = judge(rules_of(tmp_path, "excess = 4"), "m", HOP, "embed", 64, figures)
    assert (found.verdict, found.why) == ("fail", "noise_floor 0.2 > 0.001")


def test_an_absolute_limit_larger_than_the_tap_fails_it_and_says_so(tmp_path: Path) -> None:
    rules = rules_of(tmp_path, "max_abs_err = 3.0")
    small = GARBAGE | {"max_abs_err": 1.0, "scale": 0.5}
    found = judge(rules, "m", HOP, "embed", 64, small)
    assert found.verdict == "fail"
    assert "max_abs_err 3 limits nothing here" in found.why
    assert judge(rules, "m", HOP, "embed", 64, small | {"scale": 100.0}).verdict == "pass"
    both = rules_of(tmp_path, "max_abs_err = 3.0\nrel_l2 = 0.1")
    assert judge(both, "m", HOP, "embed", 64, small | {"rel_l2": 0.01}).verdict == "pass"


def test_the_size_of_a_tap_is_that_of_its_values(tmp_path: Path) -> None:
    values = np.full((1, 8, 4), 0.5, np.float32) * np.array([1, -1, 1, -1], np.float32)
    for stage in ("oracle", "hf", "reauthored"):
        with TraceWriter(tmp_path / stage / "a", 8) as trace:
            trace.put("embed", values + (0.1 if stage == "reauthored" else 0.0))
    rules = rules_of(tmp_path, "max_abs_err = 0.6")
    hops = (Hop("hf", "reauthored"),)
    found = compare_traces(
        tmp_path, {"oracle", "hf", "reauthored"}, ["a"], ["embed"], "m", rules, lambda *_: Absence(""), hops
    )
    (row,) = found.rows
    assert row.verdict == "fail"
    assert row.why.endswith("root mean square of 0.5")


def test_a_looser_rule_is_told_from_a_stricter_one_by_each_of_its_limits(tmp_path: Path) -> None:
    shipped = [Rule("shipped", {"excess": 4.0, "position_excess": 16.0, "snr_db": 3.0})]
    places = [("m", HOP, "embed", 64), ("m", HOP, "logits", 64)]
    strict = rules_of(tmp_path, 'name = "s"\nexcess = 3\nposition_excess = 16\nsnr_db = 10\nnoise_floor = 1e-4')
    assert looser_than(strict, shipped, places) == {}
    loose = rules_of(tmp_path, 'name = "l"\ntap = "logits"\nexcess = 40\nsnr_db = 1', 'name = "s"\nexcess = 3')
    assert looser_than(loose, shipped, places) == {
        ("l", "shipped"): ["excess 40 instead of 4", "no position_excess", "snr_db 1 instead of 3"],
        ("s", "shipped"): ["no position_excess", "no snr_db"],
    }
    lax = rules_of(tmp_path, 'name = "n"\nexcess = 4\nposition_excess = 16\nsnr_db = 3\nnan_count = 2')
    assert looser_than(lax, shipped, places) == {("n", "shipped"): ["nan_count 2 instead of 0"]}
    unused = rules_of(tmp_path, 'tap = "block.77.out"\nexcess = 400', "excess = 4\nposition_excess = 16\nsnr_db = 3")
    assert looser_than(unused, shipped, places) == {}
    assert looser_than(load_rules(), load_rules(), places) == {}


def test_all_that_people_read_names_a_looser_rule(tmp_path: Path) -> None:
    rule = LooserRule(rule="mine", than="float32", limits=["excess 100 instead of 4", "no position_excess"])
    record = make_run("pass")[0].model_copy(update={"looser_rules": [rule]})
    said = "Judged by a rule that is looser than the shipped one: mine (excess 100 instead of 4, no position_excess)."
    assert headline(record).endswith(said)
    assert verdict_words(record).endswith(said)
    assert "looser than the shipped one: mine" in summary(record, tmp_path)
    root = ElementTree.parse(write_junit(tmp_path, record)).getroot()
    assert said in [case.get("name") for case in root.iter("testcase")]
    assert root.get("failures") == "0"
    assert "looser" not in headline(make_run("pass")[0]) + verdict_words(make_run("pass")[0])


def test_no_figure_that_is_not_a_number_is_within_a_limit(tmp_path: Path) -> None:
    for name in sorted(OF_THE_ERROR):
        rules = rules_of(tmp_path, f"{name} = 0.5")
        assert judge(rules, "m", HOP, "embed", 64, GARBAGE | {name: math.nan}).verdict == "fail"
