"""A model that is broken on purpose is told what is wrong with it, and a sound one is told nothing.

`python -m pytest tests/faults/test_explain.py -s -q | grep explained:` shows what is said.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explaining import Explained, explain_as_it_is, explain_checkpoint, explain_flatbuffer, explain_reauthored
from generative import generative_main
from marks import further_but, sweep_but
from mistakes import CODE, CONFIG, CONSTANTS, FUNCTIONS, PUBLISHED, WEIGHTS
from paths import ROOT

from harness.bench.breaking import typical_element, with_flip
from harness.bench.reseed import patch
from harness.bench.workbench import BUILTIN, STAGES, TORCH_STAGES, XNNPACK, Bench, bench
from harness.explain.decoder import TOKENS, Decoder, Walk
from harness.explain.diagnose import diagnose
from harness.explain.evidence import gather
from harness.explain.hypotheses import Proposal, all_hypotheses
from harness.explain.job import reference
from harness.names.taps import block_tap, reaching, split_tap
from harness.stages.litert_torch.faults.declarations import other_config
from harness.stages.litert_torch.faults.rewiring import block, rms
from harness.store.trace import Trace

pytestmark = pytest.mark.slow


MOST_BLOCKS = 8  # of a miniature
OTHERS = sorted(set(generative_main()) - {"tiny_llama"})


def assert_first(what: str, found: Explained, name: str, equals: int = 1) -> None:
    """equals: how many hypotheses may come before it, with itself, that explain as well."""
    assert name in found.names[:equals], f"{what}: {found.names} at {found.fault.tap}"
    assert found.best.explains > 0.99
    assert found.best.excess_before is not None
    assert found.best.excess_after is not None
    assert found.best.excess_after < min(3.0, found.best.excess_before / 3)


def test_the_steps_between_taps_are_those_of_the_published_model() -> None:
    assert_covered("tiny_llama")


@pytest.mark.parametrize("name", further_but(["gemma2"], ["gemma2", "phi2", "phi3", "falcon", "openelm"], OTHERS))
def test_the_steps_between_taps_are_those_of_every_published_model(name: str) -> None:
    assert_covered(name)


class _Overheard(Walk):
    """A walk that remembers which taps the steps asked for."""

    asked: set[str]

    def __init__(self, decoder: Decoder, known: Mapping[str, np.ndarray]) -> None:
        super().__init__(decoder, known)
        self.asked = set()

    def value(self, tap: str) -> np.ndarray:
        self.asked.add(tap)
        return super().value(tap)


def feeding(tap: str) -> set[str]:
    """What a tap is computed from by the table of dataflow, over however many taps between."""
    block, point = split_tap(tap)
    if block is None:
        return {"final_norm", *(block_tap(number, "out") for number in range(MOST_BLOCKS))}
    entering = block_tap(block - 1, "out") if block else "embed"
    return {entering, *(block_tap(block, source) for source in reaching(point, lambda _: True))}


def assert_covered(name: str) -> None:
    """Every tap of the oracle follows from the taps before it, to float32's rounding of the inputs."""
    model = bench(name)
    decoder = reference(model.model, model.prepared)
    folder = model.folder / "oracle-alone"
    model.trace("oracle", folder)
    for item in model.prepared.inputs:
        trace = Trace.open(folder / "oracle" / item.id)
        known = {tap: trace.load(tap)[0].astype(np.float64) for tap in trace.taps}
        known[TOKENS] = np.array(item.tokens)
        for tap in model.prepared.taps:
            walk = _Overheard(decoder, known)
            made = walk.compute(tap)
            assert walk.asked <= feeding(tap), f"{tap} is computed from {walk.asked - feeding(tap)} too"
            assert made.shape == known[tap].shape, tap
            off = np.linalg.norm(made - known[tap]) / np.linalg.norm(known[tap])
            assert off < 1e-6, f"{tap} of {item.id} is off by {off:.2g}"


@pytest.mark.parametrize("what", further_but([*CODE][::4], CODE))
def test_a_mistake_in_the_code_is_named(what: str) -> None:
    change, name = CODE[what]
    assert_first(what, explain_reauthored(bench("tiny_llama"), change), name)


MODEL_OF = {"bias_missing": "qwen2_5"}


def in_pytorch(name: str) -> Bench:
    """A bench for mistakes in the re-authored model: those that other tests do not convert anyway stay unconverted."""
    return bench(name) if name == "tiny_llama" else bench(name, stages=TORCH_STAGES)


@pytest.mark.parametrize("what", further_but([*WEIGHTS][::4], WEIGHTS))
def test_a_wrong_weight_is_named(what: str) -> None:
    change, name = WEIGHTS[what]
    found = explain_reauthored(in_pytorch(MODEL_OF.get(what, "tiny_llama")), change)
    if what == "weight_differs":
        assert found.names == ["weight_differs"]
        assert found.best.explains > 0.1
    else:
        assert_first(what, found, name)


@pytest.mark.parametrize("what", further_but([*CONFIG][::4], CONFIG))
def test_a_wrong_number_in_the_config_is_named(what: str) -> None:
    name, change, hypothesis = CONFIG[what]
    model = in_pytorch(name)
    found = explain_reauthored(model, model=other_config(model.model, change))
    assert_first(what, found, hypothesis, equals=2 if what == "rope of the other layers" else 1)


@pytest.mark.parametrize("what", FUNCTIONS)
def test_a_mistake_in_what_all_blocks_call_is_named(what: str) -> None:
    broken, name = FUNCTIONS[what]
    assert bench("tiny_llama").sound, "before anything is broken"
    with broken():
        found = explain_reauthored(bench("tiny_llama"))
    assert_first(what, found, name)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("tiny_llama", STAGES),
        ("gemma2", TORCH_STAGES),
        ("phi2", TORCH_STAGES),
        pytest.param("gemma2", STAGES, marks=pytest.mark.sweep),
        pytest.param("phi2", STAGES, marks=pytest.mark.sweep),
    ],
)
def test_nothing_is_claimed_where_nothing_is_wrong(name: str, stages: tuple[str, ...]) -> None:
    """At no tap of an unbroken model, on any hop of these stages."""
    model = bench(name) if stages == STAGES else bench(name, stages=stages)
    decoder = reference(model.model, model.prepared)
    item = model.prepared.inputs[-1]
    taps = model.prepared.taps if name != "tiny_llama" else model.prepared.taps[::4]
    tried = 0
    for hop in model.unbroken.hops:
        candidate = Trace.open(model.sound / hop.split("->")[1] / item.id)
        for tap in (tap for tap in taps if tap in candidate):
            tried += 1
            found = diagnose(gather(model.sound, hop, tap, item, decoder, model.prepared))
            assert not found, f"{hop} at {tap}: {found[0].detail}"
    assert tried > 25


@pytest.mark.parametrize(("factor", "named"), [(0.99998, False), (1.005, False), (0.1, True)])
def test_a_cause_that_changes_nothing_is_never_a_remedy(factor: float, named: bool) -> None:
    """An epsilon of 9.9998e-06 fits the error of a mean of squares: "set the epsilon to 1e-05" would be no help."""
    model = bench("tiny_llama")
    decoder = reference(model.model, model.prepared)
    evidence = gather(model.sound, XNNPACK, "block.1.attn.norm", model.prepared.inputs[-1], decoder, model.prepared)
    fact = decoder.norm("pre_attention", 1)
    assert fact is not None
    other = decoder.with_norm("pre_attention", 1, dataclasses.replace(fact, eps=fact.eps * factor))
    exact = dataclasses.replace(evidence.floor, relative=evidence.floor.relative * 0, typical=0.0)
    observed = dataclasses.replace(evidence, observed=evidence.predict(other), floor=exact)
    # So much of it that something would be claimed, however small the change is.
    gap = observed.observed - observed.expected
    observed = dataclasses.replace(observed, expected=observed.expected, observed=observed.expected + gap)
    assert ("norm_eps" in [entry.hypothesis for entry in diagnose(observed)]) is named


@pytest.mark.parametrize(
    ("numbers", "nothing"), [((1e4, 1e4 * 1.000005), True), ((1e4, 10001.0), False), (None, False)]
)
def test_a_number_that_is_the_published_one_changes_nothing(numbers: tuple[float, float] | None, nothing: bool) -> None:
    assert Proposal("", "", np.zeros(1), numbers=numbers).changes_nothing is nothing


def test_a_change_that_no_hypothesis_foresees_is_not_explained() -> None:
    """Every number a little off at random: nobody can say why, so nobody does."""

    def shaken(network: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        norm = block(network, 1).pre_atten_norm
        norm.forward = lambda x: rms(x) * norm.weight * (1 + 0.01 * torch.randn(x.shape, generator=generator))

    assert explain_reauthored(bench("tiny_llama"), shaken).names == []


@pytest.mark.parametrize("what", [what for what in PUBLISHED if "10010" not in what])
def test_a_wrong_number_in_the_checkpoint_is_named(what: str) -> None:
    change, _, name = PUBLISHED[what]
    assert_first(what, explain_checkpoint(bench("tiny_llama"), config=change), name)


@pytest.mark.parametrize("what", CONSTANTS)
def test_a_wrong_constant_of_the_flatbuffer_is_named(what: str) -> None:
    change, name = CONSTANTS[what]
    model = bench("tiny_llama")
    found = explain_flatbuffer(model, lambda file: change(model, file))
    assert found.fault.hop == XNNPACK
    if name == "weight_differs":
        assert found.names == [name]
    else:
        assert_first(what, found, name)


def test_rows_of_the_embedding_are_named_by_their_tokens() -> None:
    model = bench("tiny_llama")
    values = model.constant("model.embed_tokens.weight")
    token = model.prepared.inputs[-1].tokens[3]
    broken = with_flip(values, (token, *typical_element(values[token])))
    found = explain_flatbuffer(model, lambda file: patch(file, values, broken))
    assert_first("a bit of the embedding", found, "embedding_rows")
    assert f"token {token}, channel" in found.best.detail


@pytest.mark.parametrize("name", sweep_but(["gemma1"], ["gemma1", "gemma3"]))
def test_the_transpose_that_became_a_reshape_is_named(name: str, tmp_path: Path) -> None:
    """A defect of the converter, which nobody put there: one KV head, builtin kernels."""
    found = explain_as_it_is(bench(name), tmp_path)
    assert (found.fault.hop, found.fault.tap) == (BUILTIN, "block.0.attn.probs")
    assert_first(name, found, "transpose_as_reshape")


def test_alibi_biases_that_are_not_rounded_are_named(tmp_path: Path) -> None:
    """A defect of the example: Falcon's slopes are bfloat16 in the published model."""
    found = explain_as_it_is(in_pytorch("falcon"), tmp_path)
    assert found.fault.tap == "block.0.attn.probs"
    assert_first("falcon", found, "alibi")


def test_values_that_stand_a_position_too_late_are_named() -> None:
    def late(network: Any) -> None:
        norm = block(network, 1).post_atten_norm
        norm.forward = lambda x: (rms(x) * norm.weight).roll(1, 1)

    model = Bench("tiny_llama", inputs=(("exact", 32, 0),))
    assert_first("late", explain_reauthored(model, late), "shifted_by_a_position")


def test_every_hypothesis_is_listed_in_the_documents() -> None:
    text = (ROOT / "docs" / "explain.md").read_text()
    listed = set(re.findall(r"`([a-z_0-9]+)`", text[text.index("## Hypotheses") : text.index("is special")]))
    assert listed == {hypothesis.name for hypothesis in all_hypotheses()}


def test_every_hypothesis_has_a_mistake_that_it_names() -> None:
    tables = (CODE, WEIGHTS, CONFIG, FUNCTIONS, CONSTANTS)
    named = {str(entry[-1]) for table in tables for entry in table.values()}  # type: ignore[attr-defined]
    named |= {"alibi", "transpose_as_reshape", "shifted_by_a_position", "embedding_rows"}  # tests of their own above
    named |= {"decode_slot", "decode_position_offset"}  # tests/faults/test_decode_alone.py
    assert named == {hypothesis.name for hypothesis in all_hypotheses()}
