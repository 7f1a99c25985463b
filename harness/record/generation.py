"""What every stage generates after a prompt, beside each other. In: nothing. Out: parts of a record."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.record.part import Part

Kind = Literal["tie", "price", "inherited", "fault", "not judged"]
Stopped = Literal["stop token", "length", "cache full"]


class GeneratedToken(Part):
    """A token that the reference generates, and how clear its choice is."""

    token: int
    text: str = ""
    """As the tokenizer has it; empty where there is none."""
    margin: float | None
    """By how much its logit is above that of the second."""
    noise: float | None
    """The largest error of the reference's logits against the oracle's, at this step or one before; none without an
    oracle."""


class Difference(Part):
    """A step at which a stage's most likely token is not the reference's, after the same tokens."""

    step: int
    """From 0: the first token after the prompt."""
    position: int
    """In the context, from 0."""
    token: int
    """The reference's."""
    own: int
    """The stage's."""
    text: str = ""
    own_text: str = ""
    margin: float | None
    """By how much the stage that it is compared with prefers its own choice to this one; none where not finite."""
    noise: float | None
    """What the logits of either may be off there. Up to twice that, a margin is a tie."""
    kind: Kind
    """`tie`: within the noise. `price`: what the recipe costs. `inherited`: the stage that it is compared with has it
    too. `fault`: above the noise, or not finite. `not judged`: nothing says how much noise there is,
    or what the recipe costs."""
    against: str
    """The stage that it is compared with."""


class OtherText(Part):
    """Where a file that takes and gives text goes another way than the checkpoint's tokenizer."""

    where: Literal["prompt", "text"]
    """`prompt`: it makes other tokens of the prompt. `text`: it makes another text of the tokens that it generated."""
    at: int
    """The first token or character that is another one, from 0."""
    own: str
    """What the file has from there on, shortened: tokens, or text."""
    expected: str
    """What the tokenizer has."""


class StageGeneration(Part):
    """What one stage generates by itself, and what it says after the reference's tokens."""

    stage: str
    tokens: list[int]
    """Greedily, by itself."""
    text: str = ""
    """What an app would print; empty where there is no tokenizer."""
    stopped: Stopped
    same: int
    """How many of its first tokens are the reference's."""
    steps: int
    """At which it was given the reference's tokens: all that the reference generated."""
    differences: list[Difference] = Field(default_factory=list)
    """Of those steps; of a file that generates by itself, its first other token alone."""
    other_text: OtherText | None = None
    """Of a file that takes and gives text; none where its text is what it should be."""
    runtime: str = ""
    """What ran a file that generates by itself, with versions."""
    kl_mean: float | None = None
    """Over the same steps, from the stage that it is compared with, in nats."""
    kl_max: float | None = None

    @property
    def first(self) -> Difference | None:
        return self.differences[0] if self.differences else None

    @property
    def faults(self) -> list[Difference]:
        return [found for found in self.differences if found.kind == "fault"]

    @property
    def wrong(self) -> bool:
        """Whether there is a fault, or text that should be another."""
        return bool(self.faults) or self.other_text is not None


class GeneratedPrompt(Part):
    """A prompt and what comes after it. stages: all that ended, in the order of the pipeline, the reference first."""

    input: str
    prompt: str = ""
    """Its text; empty where it was given as tokens."""
    prompt_tokens: int
    reference: list[GeneratedToken]
    stages: list[StageGeneration]


class Generation(Part):
    """What the stages of a model generate."""

    tokens: int
    """How many were asked for."""
    chat: bool = False
    """Whether the prompts went through the tokenizer's chat template."""
    stop_tokens: list[int] = Field(default_factory=list)
    """As `generation_config.json` has them, or else config.json or the tokenizer."""
    prompts: list[GeneratedPrompt]
    lost: dict[str, str] = Field(default_factory=dict)
    """Stages that did not end, and why."""
    not_run: dict[str, str] = Field(default_factory=dict)
    """Files that generate by themselves and could not be run here, and why."""

    @property
    def wrong(self) -> bool:
        """Whether a stage is wrong on a prompt, or did not end."""
        return bool(self.lost) or any(stage.wrong for prompt in self.prompts for stage in prompt.stages)
