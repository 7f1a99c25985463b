"""What the engine makes of texts and conversations, beside what the checkpoint's own tokenizer makes of them.

In: a bundle, a checkpoint folder, texts. Out: `Examined`. Runs in a process of its own, with nothing else in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from harness.errors import told
from harness.jobs.reporter import Reporter
from harness.stages.litert_lm.engine import Engine, EngineError, engine_version, open_engine
from harness.weights.tokenizer_files import load_tokenizer

Messages = list[dict[str, Any]]
_RENDERING = "rendering conversations"


class ExamineRequest(BaseModel):
    """bundle, checkpoint: absolute paths. vocabulary: ids that the model knows. shown: what a person calls the
    checkpoint. conversations: by name. probe: a short text that is prefilled. examples: random texts to try."""

    bundle: str
    checkpoint: str
    vocabulary: int
    shown: str
    texts: list[str]
    conversations: dict[str, Messages]
    probe: str
    examples: int


class Tokenized(BaseModel):
    """A text of which the two tokenizers make other ids."""

    text: str
    engine: list[int]
    published: list[int]
    refusal: str = ""  # what the engine said instead


class Rendered(BaseModel):
    """A conversation as the two templates render it. why: what either said that did not."""

    name: str
    engine: str = ""
    engine_ids: list[int] = Field(default_factory=list)
    engine_why: str = ""
    published: str = ""
    published_ids: list[int] = Field(default_factory=list)
    published_why: str = ""


class Examined(BaseModel):
    """What the engine did.

    refusal: why it did not open the bundle. start, stops: what it reads off the metadata. put_before: how many tokens
    it really puts before a prompt, None where the prefill failed (prefill_why). published_probe: the probe as the
    checkpoint's tokenizer has it, specials included; probe: as the engine's tokenizer has it. other: texts that differ.
    random_other: the smallest random text that does. tried: random texts.
    """

    engine: str
    refusal: str = ""
    start: list[int] = Field(default_factory=list)
    stops: list[list[int]] = Field(default_factory=list)
    probe: list[int] = Field(default_factory=list)
    published_probe: list[int] = Field(default_factory=list)
    put_before: int | None = None
    prefill_why: str = ""
    texts: int = 0
    other: list[Tokenized] = Field(default_factory=list)
    tried: int = 0
    random_other: Tokenized | None = None
    has_template: bool = False
    rendered: list[Rendered] = Field(default_factory=list)


def examine(payload: object, report: Reporter) -> dict[str, Any]:
    """payload: an `ExamineRequest`. Returns an `Examined`. Raises UsageError for a checkpoint without a tokenizer."""
    request = ExamineRequest.model_validate(payload)
    said = Examined(engine=engine_version())
    report.progress(0, 4, "loading the checkpoint's tokenizer")
    tokenizer = load_tokenizer(Path(request.checkpoint), request.vocabulary, request.shown)
    report.progress(1, 4, "opening the bundle")
    try:
        with open_engine(request.bundle) as engine:
            _fill(said, engine, tokenizer, request, report)
    except EngineError as error:
        said.refusal = str(error)
    return said.model_dump(mode="json")


def _fill(said: Examined, engine: Engine, tokenizer: Any, request: ExamineRequest, report: Reporter) -> None:
    said.start, said.stops = engine.start, engine.stops

    def published(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    report.progress(2, 4, "tokenizing")
    said.texts = len(request.texts)
    said.other = [other for text in request.texts if (other := _other(text, engine, published)) is not None]
    specials = [text for text in tokenizer.all_special_tokens if isinstance(text, str)]
    said.tried, said.random_other = _search(engine, published, specials, request.examples)
    report.progress(3, 4, _RENDERING)
    said.has_template = bool(getattr(tokenizer, "chat_template", None))
    said.rendered = [_render(name, one, engine, tokenizer) for name, one in request.conversations.items()]
    said.published_probe = list(tokenizer.encode(request.probe))
    try:
        said.probe = engine.tokenize(request.probe)
        said.put_before = engine.prefilled(request.probe) - len(said.probe)
    except EngineError as error:
        said.prefill_why = str(error)


def _other(text: str, engine: Engine, published: Callable[[str], list[int]]) -> Tokenized | None:
    """None where both make the same of it."""
    theirs = published(text)
    try:
        own = engine.tokenize(text)
    except EngineError as error:
        return Tokenized(text=text, engine=[], published=theirs, refusal=str(error))
    return None if own == theirs else Tokenized(text=text, engine=own, published=theirs)


def _search(
    engine: Engine, published: Callable[[str], list[int]], specials: Sequence[str], examples: int
) -> tuple[int, Tokenized | None]:
    """How many random texts were tried, and the smallest of which the two make other ids."""
    from hypothesis import HealthCheck, Phase, find, settings
    from hypothesis.errors import NoSuchExample

    from harness.inputs.strategies import texts

    tried = 0

    def differs(text: str) -> bool:
        nonlocal tried
        tried += 1
        return _other(text, engine, published) is not None

    chosen = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    try:
        smallest = find(texts(specials), differs, settings=chosen)
    except NoSuchExample:
        return tried, None
    return tried, _other(smallest, engine, published)


def _render(name: str, messages: Messages, engine: Engine, tokenizer: Any) -> Rendered:
    found = Rendered(name=name)
    try:
        # Parts of text stand for their sum: what a template that knows no parts would be given.
        found.published = str(
            tokenizer.apply_chat_template(joined(messages), add_generation_prompt=True, tokenize=False)
        )
        found.published_ids = list(tokenizer.encode(found.published, add_special_tokens=False))
    except Exception as error:  # a template is a program of its own
        found.published_why = told(error)
    try:
        found.engine = engine.render(messages)
        found.engine_ids = engine.tokenize(found.engine)
    except EngineError as error:
        found.engine_why = str(error)
    return found


def joined(messages: Messages) -> Messages:
    """The same conversation with a text for each message."""
    return [
        {
            **one,
            "content": one["content"]
            if isinstance(one["content"], str)
            else "".join(p["text"] for p in one["content"]),
        }
        for one in messages
    ]
