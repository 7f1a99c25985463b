"""`pytest suites/`: green only when every hop holds, red with a message that says where to look, one run per model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from harness.inputs.decode import DECODE_INPUT
from harness.inputs.tokens import DEFAULT_INPUT_IDS
from harness.names.stages import KERAS, REAUTHORED, hops_of, route_stages
from harness.spec.find import main_models, own_stage

pytestmark = pytest.mark.slow

INPUTS = (*DEFAULT_INPUT_IDS, DECODE_INPUT)
HOPS = hops_of(route_stages(REAUTHORED))
CASES = len(HOPS) * len(INPUTS)  # and one of the laws
QUANTISED_HOPS = (
    "reauthored->fakequant[{0}]",
    "fakequant[{0}]->tflite-xnnpack[{0}]",
    "reauthored->fakequant-builtin[{0}]",
    "fakequant-builtin[{0}]->tflite-builtin[{0}]",
)

# Nothing of the run that this test is part of may reach the one it starts.
OWN_PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "suites/"]


def gate(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*OWN_PYTEST, *map(str, options)], cwd=ROOT, capture_output=True, text=True, timeout=300)


def broken_rope(folder: Path) -> Path:
    """A copy of models/tiny_llama.py whose re-authored config has another rope base than the published one."""
    text = (ROOT / "models" / "tiny_llama.py").read_text()
    factory = """

def _wrong():
    config = tiny_llama.get_model_config()
    attention = config.block_configs.attn_config
    attention.rotary_base = 2 * attention.rotary_base
    return config


TINY_LLAMA ="""
    text = text.replace("\nTINY_LLAMA =", factory).replace("config=tiny_llama.get_model_config,", "config=_wrong,")
    file = folder / "wrong_rope.py"
    file.write_text(text.replace('name="tiny_llama"', 'name="wrong_rope"'))
    return file


def run_folders(out: Path) -> list[Path]:
    return sorted(out.glob("*/*"))


@pytest.mark.slow
def test_every_kind_of_model_has_a_case_per_input_on_the_first_hop_and_some_on_all() -> None:
    listed = gate("--collect-only", "-q").stdout
    whole = {"smollm2", "tiny_llama", "gemma1"}
    assert whole < main_models().keys()
    for model, ref in main_models().items():
        hops = hops_of(route_stages(own_stage(ref)))
        for hop in hops if model in whole or own_stage(ref) == KERAS else hops[:1]:
            for item in INPUTS:
                assert f"test_parity[{model}-{hop.name}-{item}]" in listed


@pytest.mark.slow
def test_what_shows_an_upstream_defect_and_what_avoids_it_are_gated() -> None:
    listed = gate("--collect-only", "-q").stdout
    for name in ("qwen3_shipped_names", "falcon_shipped_names", "dropped_norm", "ignored_fields", "falcon_rounded"):
        assert listed.count(f"test_parity[{name}-hf->reauthored-") == len(INPUTS)
    for name in ("gemma1,kv=transposed", "gemma2,mask-as-input"):
        assert listed.count(f"test_parity[{name}-") == CASES
    kernels = ("hf->reauthored", "reauthored->tflite-builtin", "tflite-builtin[{0}]->tflite-reference[{0}]")
    for hop in (*kernels, *QUANTISED_HOPS[2:]):
        hop = hop.format("dynamic_int4_block32")
        assert listed.count(f"test_parity[tiny_llama,dynamic_int4_block32-{hop}-") == len(INPUTS)


@pytest.mark.slow
def test_the_trained_model_is_gated_as_it_ships_price_and_runtime_apart() -> None:
    listed = gate("--collect-only", "-q").stdout
    for hop in QUANTISED_HOPS:
        assert listed.count(f"test_parity[smollm2-{hop.format('dynamic_int8')}-") == len(INPUTS)


def test_what_is_decoded_is_an_input_of_its_own_unless_nothing_is() -> None:
    listed = gate("--collect-only", "-q", "--model", "tiny_llama", "--decode", "0").stdout
    assert listed.count("::test_parity[") == len(HOPS) * len(DEFAULT_INPUT_IDS)
    assert f"-{DECODE_INPUT}]" not in listed
    refused = gate("--model", "tiny_llama", "--decode", "-1")
    assert (refused.returncode, "--decode -1 is negative" in refused.stderr) == (pytest.ExitCode.USAGE_ERROR, True)


def test_recipes_of_a_named_model_have_cases_for_their_price_and_for_each_runtime(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([{"regex": ".*", "operation": "*", "algorithm_key": "octav"}]))
    asked = ("--model", "tiny_llama", "--miniature", "--quantize", f"fp16,{tmp_path / 'mine.json'}")
    listed = gate("--collect-only", "-q", *asked).stdout
    assert listed.count("::test_parity[") == CASES + 2 * len(QUANTISED_HOPS) * len(INPUTS)
    for hop in QUANTISED_HOPS:
        for recipe in ("fp16", "mine"):
            assert listed.count(f"[tiny_llama-{hop.format(recipe)}-") == len(INPUTS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--quantize", "fp16"), "--quantize is for models that are named"),
        (("--model", "tiny_llama", "--quantize", "dynamic_int5"), "no recipe 'dynamic_int5', did you mean"),
        (("--model", "tiny_llama", "--quantize", "absent.json"), "absent.json cannot be read"),
    ],
)
def test_recipes_that_cannot_be_gated_are_one_line(options: tuple[str, ...], says: str) -> None:
    ended = gate(*options)
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    (line,) = ended.stderr.strip().splitlines()
    assert says in line


@pytest.mark.slow
def test_all_miniatures_are_gated_on_every_hop_when_asked() -> None:
    listed = gate("--collect-only", "-q", "--miniature").stdout
    assert listed.count("::test_parity[") == CASES * len(main_models())


def test_a_named_model_is_the_only_one_gated() -> None:
    listed = gate("--collect-only", "-q", "--model", "tiny_llama").stdout
    assert listed.count("::test_laws[tiny_llama]") == 1
    assert listed.count("::test_parity[tiny_llama-") == CASES
    assert "smollm2" not in listed


@pytest.mark.slow
def test_a_model_named_twice_is_gated_once() -> None:
    named = ("--model", "tiny_llama", "--model", ROOT / "models" / "tiny_llama.py")
    assert gate("--collect-only", "-q", *named).stdout.count("::test_parity[") == CASES


def test_an_unknown_model_is_one_line_with_the_nearest_name() -> None:
    ended = gate("--model", "tiny_lama")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert ended.stderr.strip().splitlines() == [
        "ERROR: --model: no model 'tiny_lama': did you mean 'tiny_llama'? 'edge-parity list' shows all"
    ]


def test_a_spec_file_that_is_absent_is_one_line(tmp_path: Path) -> None:
    ended = gate("--model", tmp_path / "absent.py")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "absent.py" in ended.stderr


@pytest.mark.further
def test_a_faithful_model_passes_with_one_run_for_all_workers(tmp_path: Path) -> None:
    ended = gate("--model", "tiny_llama", "--parity-out", tmp_path, "-n", "2", "-q")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{CASES + 1} passed" in ended.stdout
    (folder,) = run_folders(tmp_path)
    assert f"tiny_llama: pass {folder}/report.html" in ended.stdout


@pytest.mark.further
def test_a_fault_is_named_by_hop_tap_excess_and_report(tmp_path: Path) -> None:
    ended = gate("--model", broken_rope(tmp_path), "--parity-out", tmp_path / "out")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
    (folder,) = run_folders(tmp_path / "out")
    record = json.loads((folder / "parity.json").read_text())
    red = [case for case in record["cases"] if case["verdict"] != "pass"]
    assert {case["hop"] for case in red} == {"hf->reauthored"}
    # The audit finds the wrong number too, and an error finding leaves no case of the model green.
    assert f"{CASES + 1} failed in" in ended.stdout
    assert ended.stdout.count("rope") > CASES

    told = re.findall(
        r"^(hf->reauthored) on prompt: first failing tap (\S+), .*\bexcess ([\d.e+]+).*; report (.*)$",
        ended.stdout,
        re.MULTILINE,
    )
    assert [(hop, tap) for hop, tap, _, _ in told] == [("hf->reauthored", "block.0.attn.q_rope")]
    assert float(told[0][2]) > 8
    assert Path(told[0][3]).is_file()
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not re.search(r"test_parity\.py:\d", ended.stdout)  # no source lines: the message is all there is to say


@pytest.mark.sweep
def test_a_known_defect_is_red_once_it_is_mended(tmp_path: Path) -> None:
    """A declaration that is called falcon and rounds as transformers does stands for an upstream that was fixed.

    That a defect is green while it shows is what the gate itself says of falcon.
    """
    plan = (ROOT / "suites" / "upstream" / "falcon_rounded.py").read_text()
    fixed = tmp_path / "fixed.py"
    fixed.write_text(plan.replace('name="falcon_rounded"', 'name="falcon"'))
    ended = gate("--model", fixed, "--parity-out", tmp_path / "out", "-k", "reauthored-")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
    assert "known defect alibi-not-rounded no longer shows: hf->reauthored on long passes" in ended.stdout
    assert "take it out of harness/judge/known_defects.toml" in ended.stdout
    assert " passed" not in ended.stdout  # the finding is gone too, which makes every case red


@pytest.mark.slow
def test_a_run_that_cannot_start_fails_each_case_with_its_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ended = gate("--model", "tiny_llama", "--parity-out", file)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    assert f"{CASES + 1} failed" in ended.stdout
    told = re.findall(rf"^--out {re.escape(str(file))} cannot be written .*give another folder$", ended.stdout, re.M)
    assert len(told) == CASES + 1
    assert "Traceback" not in ended.stdout + ended.stderr
