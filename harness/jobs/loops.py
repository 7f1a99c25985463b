"""What a process is told that runs what generates by itself, and what it says.

In: nothing. Out: `LoopJob`, `EngineJob` and `LoopSaid`, which cross process borders as JSON.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from harness.jobs.job import JobInput
from harness.jobs.prepared import ModelRequest


class LoopJob(BaseModel):
    """request: the model. text: whether the file takes and gives text. prompts: those it is run on. tokens: how many to
    generate. python: path of the interpreter that runs a file of text; empty for the other.
    """

    request: ModelRequest
    text: bool
    prompts: list[JobInput]
    tokens: int
    python: str = ""


class EngineJob(BaseModel):
    """flatbuffer: its path. vocabulary: how many logits it gives. context: length of its KV cache. tokens: how many to
    generate. prompts, follow: by input, ids of the prompt, fewer than the context has places, and of what the reference
    says after it.
    """

    flatbuffer: str
    vocabulary: int
    context: int
    prompts: dict[str, list[int]]
    follow: dict[str, list[int]]
    tokens: int


class LoopSaid(BaseModel):
    """By input. tokens: all that was generated, whatever stop token is among them. prompt_tokens, texts: of a file
    of text, what its own tokenizer made of the prompt, and of what came after. followed: of what follows the reference,
    what it says after each of that one's tokens. runtime: what ran it, with versions.
    """

    tokens: dict[str, list[int]]
    followed: dict[str, list[int]] = Field(default_factory=dict)
    prompt_tokens: dict[str, list[int]] = Field(default_factory=dict)
    texts: dict[str, str] = Field(default_factory=dict)
    runtime: str
    sha256: str  # of the file
