"""Parity of two models that are broken alike: the reference's likelihood of the text tells, and accuses nobody else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from record_factory import make_run

from harness.compare.likelihood import FAR_ABOVE, likelihood_findings, likelihood_of, with_earlier
from harness.record.record import Input, Likelihood, Record, read_record, write_record
from harness.store.trace import TraceWriter

pytestmark = pytest.mark.slow

VOCAB = 500
TEXT = Input(id="prose", tokens=40, text="a text", token_ids=[(7 * i) % VOCAB for i in range(40)])
OTHER = Input(id="more", tokens=21, text="another", token_ids=[(11 * i) % VOCAB for i in range(21)])


def traced(folder: Path, *inputs: Input, spread: float = 3.0) -> dict[str, np.ndarray]:
    """Logits of an oracle on these inputs."""
    made = {}
    for item in inputs:
        logits = np.random.default_rng(item.tokens).standard_normal((1, item.tokens, VOCAB)) * spread
        with TraceWriter(folder / "oracle" / item.id, item.tokens) as trace:
            trace.put("logits", logits)
        made[item.id] = logits[0]
    return made


def found_in(folder: Path, *inputs: Input, **options: float) -> Likelihood:
    traced(folder, *inputs, **options)
    found = likelihood_of(folder, inputs, VOCAB)
    assert found is not None
    return found


def test_the_nll_is_that_of_torch_for_each_input_and_for_all_tokens_together(tmp_path):
    logits = traced(tmp_path, TEXT, OTHER)
    found = likelihood_of(tmp_path, [TEXT, OTHER], VOCAB)
    assert found is not None
    losses = [
        torch.nn.functional.cross_entropy(
            torch.from_numpy(logits[item.id][:-1]), torch.tensor(item.token_ids[1:]), reduction="none"
        )
        for item in (TEXT, OTHER)
    ]
    for one, each in zip(losses, found.inputs, strict=True):
        assert each.nll == pytest.approx(float(one.mean()), rel=1e-12)
        assert each.perplexity == pytest.approx(math.exp(float(one.mean())), rel=1e-12)
    assert found.nll == pytest.approx(float(torch.cat(losses).mean()), rel=1e-12)
    assert (found.tokens, found.chance) == (59, math.log(VOCAB))


def test_only_inputs_of_text_with_a_token_to_predict_are_read(tmp_path):
    single = Input(id="one-token", tokens=1, text="a", token_ids=[3])
    drawn = TEXT.model_copy(update={"id": "drawn", "text": None})
    traced(tmp_path, TEXT, single, drawn)
    assert likelihood_of(tmp_path, [single, drawn], VOCAB) is None
    found = likelihood_of(tmp_path, [single, drawn, TEXT], VOCAB)
    assert found is not None
    assert [each.input for each in found.inputs] == ["prose"]
    assert likelihood_of(tmp_path / "no stage finished", [TEXT], VOCAB) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_give_no_figure_and_no_accusation(tmp_path, value):
    logits = traced(tmp_path, TEXT)["prose"]
    logits[5, 3] = value
    with TraceWriter(tmp_path / "oracle" / "prose", TEXT.tokens) as trace:
        trace.put("logits", logits[None])
    found = likelihood_of(tmp_path, [TEXT], VOCAB)
    assert found is not None
    assert found.nll is not None
    assert math.isnan(found.nll)
    assert likelihood_findings(found, trained=True) == []


def test_near_chance_is_a_warning_for_weights_that_claim_to_be_trained_alone(tmp_path):
    guessing = found_in(tmp_path, TEXT, spread=0.1)
    (finding,) = likelihood_findings(guessing, trained=True)
    assert finding.severity == "warning"
    assert "near the 6.21 of guessing" in finding.what
    assert likelihood_findings(guessing, trained=False) == []  # a miniature has random weights and says so
    working = guessing.model_copy(update={"nll": 0.81 * guessing.chance})  # trained SmolLM2 on words drawn by lot
    assert likelihood_findings(working, trained=True) == []
    few = guessing.model_copy(update={"tokens": 5})
    assert likelihood_findings(few, trained=True) == []
    assert likelihood_findings(None, trained=True) == []


def earlier_run(out: Path, run_id: str, nll: float | None, inputs: list[Input], tokens: int = 39) -> None:
    record, frame = make_run("pass")
    said = None
    if nll is not None:
        each = [{"input": item.id, "tokens": tokens, "nll": nll, "perplexity": math.exp(nll)} for item in inputs]
        whole = {"nll": nll, "perplexity": math.exp(nll), "tokens": tokens, "chance": math.log(VOCAB), "inputs": each}
        said = Likelihood.model_validate(whole)
    folder = out / "smollm2" / run_id
    folder.mkdir(parents=True)
    write_record(folder, record.model_copy(update={"run_id": run_id, "inputs": inputs, "likelihood": said}), frame)


def after(out: Path, nll: float) -> tuple[Likelihood, list[str]]:
    each = [{"input": "prose", "tokens": 39, "nll": nll, "perplexity": math.exp(nll)}]
    now = Likelihood.model_validate(
        {"nll": nll, "perplexity": math.exp(nll), "tokens": 39, "chance": 10.8, "inputs": each}
    )
    found = with_earlier(now, [TEXT], out, "smollm2")
    return found, [finding.what for finding in likelihood_findings(found, trained=True)]


def test_far_above_what_the_same_text_had_in_an_earlier_run_is_a_warning_that_names_the_run(tmp_path):
    earlier_run(tmp_path, "20261101-000000-aaaa", 3.58, [TEXT])
    found, (what,) = after(tmp_path, 5.29)  # q and k rows left in GGUF order
    assert "was 3.58 nats per token in run 20261101-000000-aaaa and is 5.29 now" in what
    assert found.earlier is not None
    assert found.earlier.inputs == ["prose"]
    # A broken run in between does not become the measure.
    earlier_run(tmp_path, "20261102-000000-bbbb", 5.29, [TEXT])
    assert after(tmp_path, 5.29)[1]


@pytest.mark.parametrize("nll", [3.575, 3.58 + FAR_ABOVE - 0.01, 1.2])  # bfloat16, what rounding costs, a better model
def test_ordinary_changes_are_no_warning(tmp_path, nll):
    earlier_run(tmp_path, "20261101-000000-aaaa", 3.58, [TEXT])
    assert after(tmp_path, nll)[1] == []


def test_other_text_few_tokens_old_and_damaged_records_are_no_measure(tmp_path):
    other = TEXT.model_copy(update={"token_ids": [1, *TEXT.token_ids[1:]]})
    earlier_run(tmp_path, "20261101-000000-aaaa", 1.0, [other])
    earlier_run(tmp_path, "20261101-000000-bbbb", None, [TEXT])
    for run_id, text in (("20261103-000000-cccc", "{"), ("20261104-000000-dddd", '{"run_id": 3}')):
        folder = tmp_path / "smollm2" / run_id
        folder.mkdir()
        (folder / "parity.json").write_text(text)
    assert after(tmp_path, 5.29) == (after(tmp_path / "nothing here", 5.29)[0], [])
    earlier_run(tmp_path, "20261105-000000-eeee", 1.0, [TEXT])
    assert after(tmp_path, 5.29)[1]


def test_the_likelihood_is_on_record_and_records_without_one_still_open(tmp_path):
    earlier_run(tmp_path, "20261101-000000-aaaa", 3.58, [TEXT])
    folder = tmp_path / "smollm2" / "20261101-000000-aaaa"
    likelihood = read_record(folder).likelihood
    assert likelihood is not None
    assert likelihood.nll == 3.58
    raw = json.loads((folder / "parity.json").read_text())
    del raw["likelihood"]
    assert Record.model_validate(raw).likelihood is None
