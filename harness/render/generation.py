"""What the stages generate: in the terminal, and as a page with the reference's tokens coloured by their margin.

In: the record's `Generation`. Out: lines, or HTML. Nothing is computed but which colour a token has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.names.stages import HF
from harness.plain import clean, one_line
from harness.record.generation import (
    Difference,
    GeneratedPrompt,
    GeneratedToken,
    Generation,
    OtherText,
    StageGeneration,
)
from harness.render.console import STYLES, cells, line, new_table, wrapped
from harness.render.numbers import compared
from harness.render.page import render_page

if TYPE_CHECKING:
    from rich.console import Console

PAGE_FILE = "generation.html"
_KINDS = {
    "tie": "a tie",
    "price": "what the recipe costs",
    "inherited": "as in the stage before",
    "fault": "ABOVE THE NOISE",
    "not judged": "not judged",
}
# Of a margin, in logits: the largest that is still of a class. What is within twice the noise is a tie.
_CLASSES = ((0.1, "near"), (0.5, "close"), (2.0, "clear"))


@dataclass(frozen=True)
class TokenSpan:
    """A token of the reference on the page."""

    text: str
    kind: str
    title: str


@dataclass(frozen=True)
class StageText:
    """A stage's text on the page. same: its beginning, which is the reference's too. other: the rest.

    alike: whether all of it is the reference's, and need not be said again.
    """

    stage: str
    count: str
    same: str
    alike: bool
    other: str
    stopped: str
    differences: Sequence[str]
    faulty: bool


def difference_words(found: Difference) -> str:
    """`step 12 (position 17): " the" for " a": a tie (margin 2e-6, noise 3e-6), against hf`."""
    own, right = (_token_words(*pair) for pair in ((found.own, found.own_text), (found.token, found.text)))
    judged = found.noise is not None and found.kind in ("tie", "fault")
    noise = f", noise {compared(found.noise)}" if judged else ""
    return clean(
        f"step {found.step} (position {found.position}): {own} for {right}: {_KINDS[found.kind]} "
        f"(margin {compared(found.margin)}{noise}), against {found.against}"
    )


def other_text_words(found: OtherText) -> str:
    """`other tokens of the prompt, from token 3 on: 5 17 in place of 220`."""
    if found.where == "prompt":
        return clean(f"other tokens of the prompt, from token {found.at} on: {found.own} in place of {found.expected}")
    own, right = (repr(one_line(text)) for text in (found.own, found.expected))
    return clean(f"another text than its tokens are, from character {found.at} on: {own} in place of {right}")


def runtimes(found: Generation) -> dict[str, str]:
    """What ran the files that generate by themselves, by the name of the file."""
    return {one.stage: one.runtime for prompt in found.prompts for one in prompt.stages if one.runtime}


def count_words(stage: StageGeneration) -> str:
    """`12 of 64`: how many of a stage's own first tokens are the reference's."""
    return f"{stage.same} of {stage.steps}"


def summary(found: Generation) -> str:
    """What all prompts came to, in a sentence."""
    others = [stage for prompt in found.prompts for stage in prompt.stages if stage.stage != HF]
    alike = sum(stage.same == stage.steps and stage.other_text is None for stage in others)
    kinds = [one.first.kind for one in others if one.first is not None and one.same < one.steps]
    said = [f"{kinds.count(kind)} first differ by {words}" for kind, words in _FIRST.items() if kind in kinds]
    prompts = f"{len(found.prompts)} prompt{'s' if len(found.prompts) != 1 else ''}"
    text = f"{alike} of {len(others)} texts are the reference's, on {prompts} of up to {found.tokens} tokens"
    other = sum(one.other_text is not None for one in others)
    said += [f"{other} with a tokenizer that is not the checkpoint's"] if other else []
    said += [f"{stage} did not end" for stage in found.lost]
    return "; ".join([text, *said, *(f"{stage} was not run" for stage in found.not_run)])


_FIRST = {
    "fault": "a token above the noise",
    "tie": "a tie",
    "price": "the price of their recipe",
    "inherited": "a token that the stage before them says too",
    "not judged": "a token that nothing judges",
}


def print_generation(found: Generation, console: Console) -> None:
    """Every prompt: a table of stages, and below it the first difference of each."""
    for prompt in found.prompts:
        said = f": {one_line(prompt.prompt)!r}" if prompt.prompt else ""
        title = f"{prompt.input}{said} ({prompt.prompt_tokens} tokens)"
        table = new_table(title, [("stage", False), ("same", True), ("ends", False), ("text", False)])
        for stage in prompt.stages:
            style = STYLES["fail"] if stage.wrong else ""
            table.add_row(*cells((stage.stage, style), count_words(stage), stage.stopped, _own_text(prompt, stage)))
        console.print(table)
        for stage in prompt.stages:
            if stage.first is not None:
                wrapped(console, f"{stage.stage}: {difference_words(stage.faults[0] if stage.faults else stage.first)}")
            if stage.other_text is not None:
                wrapped(console, f"{stage.stage}: {other_text_words(stage.other_text)}")
        console.print()
    for name, runtime in runtimes(found).items():
        line(console, f"{name} ran on {runtime}")
    for name, why in found.not_run.items():  # in one piece: there may be a command in it
        line(console, f"{name} was not run: {why}")
    line(console, summary(found), style=STYLES["fail" if found.wrong else "pass"])


def page(model: str, run_id: str, found: Generation) -> str:
    """The page of its own. Texts come from outside: the template escapes them."""
    prompts = [
        (prompt, [_span(token) for token in prompt.reference], [_stage_text(prompt, stage) for stage in prompt.stages])
        for prompt in found.prompts
    ]
    return render_page(
        "generation.html.j2",
        model=model,
        run_id=run_id,
        found=found,
        prompts=prompts,
        summary=summary(found),
        runtimes=runtimes(found),
    )


def _own_text(prompt: GeneratedPrompt, stage: StageGeneration) -> str:
    reference = prompt.stages[0]
    if stage is not reference and stage.tokens == reference.tokens and stage.other_text is None:
        return "the same"
    return repr(one_line(stage.text)) if stage.text else " ".join(map(str, stage.tokens))


def _token_words(token: int, text: str) -> str:
    return repr(one_line(text)) if text else str(token)


def _span(token: GeneratedToken) -> TokenSpan:
    noise = f", noise {compared(token.noise)}" if token.noise is not None else ""
    title = f"token {token.token}, margin {compared(token.margin)}{noise}"
    return TokenSpan(token.text or f"{token.token} ", _class_of(token), title)


def _class_of(token: GeneratedToken) -> str:
    if token.margin is None or (token.noise is not None and token.margin <= 2 * token.noise):
        return "tie"
    return next((name for most, name in _CLASSES if token.margin <= most), "sure")


def _common_beginning(one: str, other: str) -> str:
    end = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    return min(one, other, key=len) if end is None else one[:end]


def _stage_text(prompt: GeneratedPrompt, stage: StageGeneration) -> StageText:
    reference = prompt.stages[0]
    alike = stage is not reference and stage.tokens == reference.tokens and stage.other_text is None
    texts = [one.text or "".join(f"{token} " for token in one.tokens) for one in (reference, stage)]
    same = _common_beginning(*texts)
    return StageText(
        stage=stage.stage,
        count=count_words(stage),
        same="" if alike else same,
        alike=alike,
        other=texts[1][len(same) :],
        stopped=stage.stopped,
        differences=[
            *(difference_words(one) for one in stage.differences[:_SHOWN]),
            *([other_text_words(stage.other_text)] if stage.other_text is not None else []),
        ],
        faulty=stage.wrong,
    )


_SHOWN = 5  # differences of a stage on the page
