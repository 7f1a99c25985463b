"""A fault that depends on what ran before is told as such, and no change of the step is offered as its cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.bench.explaining import first_fault, joined, reference_of
from harness.bench.workbench import TORCH_STAGES, Bench, bench
from harness.explain.job import RightByItselfError, explain_fault
from harness.names.codes import FindingCode

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Bench:
    return bench("tiny_llama", stages=TORCH_STAGES)


def doubled_norm(network: Any) -> None:
    norm = network.transformer_blocks[1].pre_atten_norm
    forward = norm.forward
    norm.forward = lambda x: forward(x) * 2


def in_the_first_session(change: Callable[[Any], None]) -> Callable[[Any], None]:
    """A run's stage, and not the local pass, whose process is another one."""
    sessions: list[Any] = []

    def of_session(network: Any) -> None:
        sessions.append(network)
        if len(sessions) == 1:
            change(network)

    return of_session


def test_a_step_that_is_right_by_itself_depends_on_what_ran_before(model: Bench, tmp_path: Path) -> None:
    model.break_reauthored(tmp_path, in_the_first_session(doubled_norm))
    fault = first_fault(model.judge(tmp_path))
    assert fault.tap == "block.1.attn.norm"
    shown = next(item.id for item in model.prepared.inputs if item.id != fault.input)
    named = fault.model_copy(update={"shown": shown})
    with joined(model, tmp_path) as traces, pytest.raises(RightByItselfError) as told:
        explain_fault(named, model.prepared, reference_of(model), traces)
    assert told.value.finding.code == FindingCode.RIGHT_BY_ITSELF
    # The input that the record names, and not the longest one, on which causes are tried.
    assert f"block.1.attn.norm of reauthored is wrong on {shown}, " in told.value.finding.what


def test_a_step_that_is_wrong_by_itself_is_explained(model: Bench, tmp_path: Path) -> None:
    model.break_reauthored(tmp_path, doubled_norm)
    fault = first_fault(model.judge(tmp_path))
    with joined(model, tmp_path) as traces:
        found = explain_fault(fault, model.prepared, reference_of(model), traces)
    assert fault.local_share is not None
    assert fault.local_share > 1
    assert found, "a factor of two is among the hypotheses"


@pytest.mark.parametrize(("same_weights", "names"), [(False, ["embedding_rows"]), (True, [])])
def test_rows_of_the_embedding_are_blamed_only_where_weights_may_differ(
    same_weights: bool, names: list[str], model: Bench, tmp_path: Path
) -> None:
    token = max(model.prepared.inputs, key=lambda item: len(item.tokens)).tokens[3]

    def one_token(network: Any) -> None:
        embed = network.tok_embedding.forward

        def changed(tokens: Any) -> Any:
            return embed(tokens) * (1 + 0.37 * (tokens == token))[..., None]

        network.tok_embedding.forward = changed

    model.break_reauthored(tmp_path, one_token)
    fault = first_fault(model.judge(tmp_path))
    assert fault.tap == "embed"
    with joined(model, tmp_path) as traces:
        asked = fault.model_copy(update={"same_weights": same_weights})
        found = explain_fault(asked, model.prepared, reference_of(model), traces)
    assert [entry.hypothesis for entry in found] == names
