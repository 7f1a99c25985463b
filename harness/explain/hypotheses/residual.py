"""What can be wrong where branches are added up."""

from __future__ import annotations

from collections.abc import Iterator

from harness.explain.decoder import Step, Walk, attention_branch, mlp_branch
from harness.explain.evidence import Evidence
from harness.explain.functions import Array
from harness.explain.hypotheses import Proposal, hypothesis


def _proposal(evidence: Evidence, point: str, step: Step, detail: str, change: str) -> Proposal:
    return Proposal(detail, change, evidence.predict(evidence.decoder.with_step(point, step)))


@hypothesis("residual_missing", "residual", "out")
def residual_missing(evidence: Evidence) -> Iterator[Proposal]:
    if "residual" in evidence.points:
        yield _proposal(
            evidence, "residual", attention_branch, f"{evidence.candidate} does not add the block's input to the "
            "output of attention", "add the block's input to the output of attention",
        )  # fmt: skip
    if "out" in evidence.points:
        yield _proposal(
            evidence, "out", mlp_branch, f"{evidence.candidate} does not add the residual to the output of the MLP",
            "add the residual to the output of the MLP",
        )  # fmt: skip


@hypothesis("branch_missing", "residual", "out")
def branch_missing(evidence: Evidence) -> Iterator[Proposal]:
    if "residual" in evidence.points:
        yield _proposal(
            evidence, "residual", lambda walk, block: walk.entering(block),
            f"{evidence.candidate} does not add the output of attention", "add the output of attention",
        )  # fmt: skip
    if "out" not in evidence.points:
        return
    if not evidence.decoder.layer(evidence.block).parallel_residual:
        yield _proposal(
            evidence, "out", lambda walk, block: walk.at(block, "residual"),
            f"{evidence.candidate} does not add the output of the MLP", "add the output of the MLP",
        )  # fmt: skip
        return
    for name, branch in (("attention", mlp_branch), ("the MLP", attention_branch)):

        def other(walk: Walk, block: int, branch: Step = branch) -> Array:
            return walk.entering(block) + branch(walk, block)

        yield _proposal(
            evidence, "out", other, f"{evidence.candidate} does not add the output of {name}",
            f"add the output of {name}",
        )  # fmt: skip


@hypothesis("residual_of_block_input", "out")
def residual_taken_from_the_block_input(evidence: Evidence) -> Iterator[Proposal]:
    yield _proposal(
        evidence, "out", lambda walk, block: walk.entering(block) + mlp_branch(walk, block),
        f"{evidence.candidate} adds the output of the MLP to the block's input, which lacks the output of attention",
        "add the output of the MLP to the residual after attention",
    )  # fmt: skip
