"""The search finds the input that breaks a tolerance, makes it small, and does the same again for the same seed."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ENVIRONMENT, SPEC

from harness.compare.noise import NoiseFloor
from harness.fuzz.command import run_command, save
from harness.fuzz.judging import Failure, InputJudgement, Nearest, raised
from harness.fuzz.search import FuzzSearch, search
from harness.inputs.given import inputs_from_jsonl
from harness.inputs.strategies import searched_inputs
from harness.inputs.tokens import TokenInput
from harness.names.variant import VariantOptions
from harness.pipeline.options import Options

pytestmark = pytest.mark.slow

VOCAB, CACHE, WINDOW = 512, 64, 16
HOP = "hf->reauthored"


def hunt(breaks: Callable[[TokenInput], str], max_examples: int = 200, seed: int = 0) -> tuple[FuzzSearch, list[Any]]:
    """Search where `breaks` names the tap at which an input shows a fault; empty: none. Also what was run, in order."""
    asked: list[Any] = []

    def judge(item: TokenInput) -> InputJudgement:
        asked.append((item.tokens, item.decode_tail))
        tap = breaks(item)
        return InputJudgement((Failure(HOP, tap, "too much"),) if tap else (), Nearest(2.0 if tap else 0.5, "excess"))

    inputs = searched_inputs(VOCAB, CACHE, (32, WINDOW))
    return search(inputs, judge, max_examples=max_examples, seed=seed), asked


def lost_window(item: TokenInput) -> str:
    """What is further back than the window is still seen, and only a token unlike the others shows it."""
    far = any(set(item.tokens[: at - WINDOW + 1]) - {item.tokens[at]} for at in range(WINDOW, len(item.tokens)))
    return "block.0.attn.context" if far else ""


def test_a_fault_behind_a_window_shrinks_to_one_token_more() -> None:
    found, _ = hunt(lost_window)
    assert found.smallest is not None
    assert len(found.smallest.tokens) == WINDOW + 1
    assert sorted(found.smallest.tokens)[-2:] == [0, 1]


def test_a_broken_row_of_the_embedding_shrinks_to_that_token() -> None:
    found, _ = hunt(lambda item: "embed" if 333 in item.tokens else "")
    assert found.smallest is not None
    assert found.smallest.tokens == (333,)
    assert found.first is not None
    assert len(found.first.tokens) > 1


def test_a_fault_of_decoding_shrinks_to_the_fewest_steps() -> None:
    found, _ = hunt(lambda item: "block.0.cache.k" if len(item.tokens) > 1 and item.decode_tail >= 3 else "")
    assert found.smallest == TokenInput("fuzz", (0, 0, 0), None, 3)


def test_a_far_position_is_found_and_nothing_smaller_is_called_it() -> None:
    found, _ = hunt(lambda item: "block.0.attn.q_rope" if len(item.tokens) > 50 else "")
    assert found.smallest is not None
    assert found.smallest.tokens == (0,) * 51


def test_shrinking_does_not_slip_to_another_fault() -> None:
    def two(item: TokenInput) -> str:
        return "block.1.out" if len(item.tokens) > 20 else "embed" if 7 in item.tokens and len(item.tokens) > 1 else ""

    found, _ = hunt(two, seed=1)
    assert found.fault is not None
    assert found.smallest is not None
    assert two(found.smallest) == found.fault.tap


def test_the_same_seed_runs_the_same_inputs_and_another_one_others() -> None:
    one, again, other = (hunt(lost_window, seed=seed) for seed in (3, 3, 4))
    assert one == again
    assert one[1] != other[1]


def test_nothing_is_found_where_nothing_is_wrong_and_no_input_is_run_twice() -> None:
    found, asked = hunt(lambda item: "", max_examples=100)
    assert (found.smallest, found.fault, found.shrinking) == (None, None, 0)
    assert found.tried == len(asked) == len(set(asked)) > 80
    assert found.nearest == Nearest(0.5, "excess")


def test_inputs_are_short_and_long_and_reach_the_edges() -> None:
    _, asked = hunt(lambda item: "", max_examples=300)
    lengths = [len(tokens) for tokens, _ in asked]
    assert {1, WINDOW, WINDOW + 1, 32, 33, CACHE} <= set(lengths)
    assert sum(length > CACHE // 2 for length in lengths) > 50
    assert {0, 1, 2} <= {tail for _, tail in asked}


def test_what_goes_wrong_while_judging_is_raised_and_not_taken_for_a_find() -> None:
    def broken(item: TokenInput) -> str:
        raise RuntimeError("a stage ended")

    with pytest.raises(RuntimeError, match="a stage ended"):
        hunt(broken)


def test_a_floor_is_raised_to_what_is_typical_and_never_lowered() -> None:
    floor = NoiseFloor(np.array([1e-6, 3e-6, 2e-6]), np.ones(3), 2e-6)
    assert raised(floor, np.full(9, 5e-6)).typical == 5e-6
    assert raised(floor, np.full(9, 1e-7)).typical == 2e-6
    assert raised(floor, np.empty(0)).typical == 2e-6
    assert np.isnan(raised(floor, np.array([np.nan] * 9)).typical)


def test_the_file_is_read_back_as_the_same_input(tmp_path: Path) -> None:
    item = TokenInput("fuzz", (5, 0, 511), None, 2)
    file = tmp_path / "new" / "found.jsonl"
    save(file, item, seed=4)
    (read,) = inputs_from_jsonl(file, None, VOCAB, CACHE)
    assert (read.id, read.tokens, read.decode_tail) == ("fuzz-4", item.tokens, 2)
    assert [path.name for path in file.parent.iterdir()] == ["found.jsonl"]


def test_the_command_repeats_what_the_search_was_told() -> None:
    options = Options(
        "./my model.py",
        miniature=True,
        layers=3,
        variant=VariantOptions(hlfb=False, kv_layout="transposed", prefill=(8, 32)),
    )
    words = shlex.split(run_command(options, Path("found.jsonl")))
    assert words[:3] == ["edge-parity", "run", "./my model.py"]
    assert words[3:5] == ["--layers", "3"]
    given = ["--miniature", "--no-hlfb", "--kv-layout", "transposed", "--prefill", "8,32", "--inputs", "found.jsonl"]
    assert words[5:] == given


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "harness.commands.main", *words]
    return subprocess.run(arguments, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)


@pytest.mark.further
def test_a_lost_window_is_found_shrunk_and_shown_again_by_a_run(tmp_path: Path) -> None:
    """Gemma 2 with its mask as an input, as litert-torch converts it by default: one mask for all layers."""
    asked = ("gemma2", "--miniature", "--mask-as-input")
    ended = command(tmp_path, "fuzz", *asked, "--hop", "reauthored->tflite-xnnpack", "--out", "found.jsonl")
    assert ended.returncode == 1, ended.stderr
    assert "FOUND  gemma2" in ended.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["found.jsonl"]
    found = json.loads((tmp_path / "found.jsonl").read_text())
    assert len(found["tokens"]) == WINDOW + 1
    again = command(tmp_path, "run", *asked, "--inputs", "found.jsonl", "--json")
    assert again.returncode == 1, again.stderr
    failing = [hop["to"] for hop in json.loads(again.stdout)["hops"] if hop["verdict"] == "fail"]
    assert "tflite-xnnpack" in failing


ADDED = """
import dataclasses

import torch


class Broken(tiny_llama.TinyLlama):
    @torch.inference_mode
    def forward(self, tokens, input_pos, kv_cache, *rest, **named):
        {before}
        output = super().forward(tokens, input_pos, kv_cache, *rest, **named)
        {after}
        return output


def config():
    made = tiny_llama.get_model_config()
    build = made.build_rope
    made.build_rope = lambda positions, *rest: build({positions}, *rest)
    return made


BROKEN = dataclasses.replace(TINY_LLAMA, name="broken", model_class=Broken, config=config)
"""
WHOLE = {"before": "pass", "after": "pass", "positions": "positions"}
BROKEN = {
    "a row of the embedding": ({"before": "tokens = torch.where(tokens == 333, 334, tokens)"}, "embed", [333], 1),
    "a far position's angles": (
        {"positions": "torch.where(positions > 100, positions + 1, positions)"}, "block.0.attn.q_rope", [0] * 102, 1),
    "the slot before the one that decode writes": (
        {"after": "output['kv_cache'].caches[0].k_cache[:, int(input_pos[0]) - 1] *= 1 + 0.01 * (len(input_pos) == 1)"},
        "block.0.cache.k", [0, 0], 1),
}  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize("what", BROKEN)
def test_a_fault_that_few_inputs_show_shrinks_to_its_essence(what: str, tmp_path: Path) -> None:
    parts, tap, tokens, tail = BROKEN[what]
    (tmp_path / "broken.py").write_text(SPEC + ADDED.format(**{**WHOLE, **parts}))
    asked = ("./broken.py:BROKEN", "--miniature", "--hop", HOP, "--out", "found.jsonl")
    ended = command(tmp_path, "fuzz", *asked)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"FOUND  broken  {tap} of {HOP}" in ended.stdout
    found = json.loads((tmp_path / "found.jsonl").read_text())
    assert (found["tokens"], found["decode_tail"]) == (tokens, tail)


@pytest.mark.further
def test_an_input_over_which_a_stage_ends_is_saved_as_it_was(tmp_path: Path) -> None:
    parts = {"before": "assert len(tokens[0]) == 1 or tokens.max() < 300"}
    (tmp_path / "broken.py").write_text(SPEC + ADDED.format(**{**WHOLE, **parts}))
    asked = ("./broken.py:BROKEN", "--miniature", "--hop", HOP, "--out", "found.jsonl")
    ended = command(tmp_path, "fuzz", *asked)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "CRASHED  broken  reauthored crashed over an input: AssertionError" in ended.stdout
    assert "Traceback" not in ended.stderr
    assert max(json.loads((tmp_path / "found.jsonl").read_text())["tokens"]) >= 300


def test_a_law_that_is_broken_is_told_with_the_smallest_input_and_a_run_that_shows_it(tmp_path: Path) -> None:
    """Decode writes a slot that is not its own, which any input of two tokens shows."""
    parts = BROKEN["the slot before the one that decode writes"][0]
    (tmp_path / "broken.py").write_text(SPEC + ADDED.format(**{**WHOLE, **parts}))
    asked = ("./broken.py:BROKEN", "--miniature", "--hop", HOP, "--out", "found.jsonl")
    ended = command(tmp_path, "fuzz", *asked, "--laws", "--max-examples", "20")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "FOUND  broken  reauthored breaks the law own-slots" in ended.stdout
    assert "law: a step writes its own slots of the KV cache and no others" in ended.stdout
    assert "why: block.0.cache.k differs at slot " in ended.stdout
    assert len(json.loads((tmp_path / "found.jsonl").read_text())["tokens"]) <= 2
    shown = next(line for line in ended.stdout.splitlines() if line.startswith("run: "))
    assert shown.endswith("--inputs found.jsonl --laws")


@pytest.mark.slow
def test_an_unbroken_miniature_gives_no_alarm_and_leaves_nothing(tmp_path: Path) -> None:
    ended = command(tmp_path, "fuzz", "tiny_llama", "--miniature", "--max-examples", "6")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "NONE  tiny_llama" in ended.stdout
    assert list(tmp_path.iterdir()) == []
