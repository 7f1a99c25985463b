"""What a checkpoint's tokenizer says that a bundle has to say too.

In: a checkpoint folder. Out: `Published`. Runs in a process of its own, since a template is a program of a stranger's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from harness.errors import UsageError
from harness.jobs.reporter import Reporter
from harness.system.reading import TEXT, read_bytes
from harness.weights.tokenizer_files import load_tokenizer

_TOKENIZER = "tokenizer.json"
_MARK = "KIMAIRA0"  # stands for a message, and for nothing in a template
# An engine gives the content of a message as a list of parts. This makes a text of it again, for templates that were
# written for texts, and leaves all else of the message as it is.
JOINED_PARTS = """\
{%- set given = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set given.messages = given.messages + [message] -%}
{%- else -%}
{%- set said = namespace(text='') -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{%- set said.text = said.text + part['text'] -%}
{%- endif -%}
{%- endfor -%}
{%- set given.messages = given.messages + [dict(message, content=said.text)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = given.messages -%}
"""


class PublishedRequest(BaseModel):
    """checkpoint: absolute path. vocabulary: ids that the model knows. shown: what a person calls the checkpoint.
    stops: the tokens at which it ends a text."""

    checkpoint: str
    vocabulary: int
    shown: str
    stops: list[int]


class Published(BaseModel):
    """tokenizer: path of the tokenizer.json; empty where there is none. sentencepiece: path of the model; likewise.

    start: tokens that it puts before a plain prompt. template: as an engine can render it; empty where the checkpoint
    has none. notes: what was changed of it, in words. affixes: role -> what stands before and after a message; empty
    where the template is no such pattern. stop_texts: the tokens of `stops` as text.
    """

    tokenizer: str = ""
    sentencepiece: str = ""
    start: list[int] = Field(default_factory=list)
    template: str = ""
    notes: list[str] = Field(default_factory=list)
    affixes: dict[str, tuple[str, str]] = Field(default_factory=dict)
    stop_texts: list[str] = Field(default_factory=list)


def published(payload: object, report: Reporter) -> dict[str, Any]:
    """payload: a `PublishedRequest`. Returns a `Published`. Raises UsageError where there is no tokenizer."""
    request = PublishedRequest.model_validate(payload)
    report.progress(0, 1, "reading the tokenizer")
    folder = Path(request.checkpoint)
    tokenizer = load_tokenizer(folder, request.vocabulary, request.shown)
    plain = list(tokenizer.encode("a", add_special_tokens=False))
    whole = list(tokenizer.encode("a"))
    if whole[len(whole) - len(plain) :] != plain:
        raise UsageError(
            f"{request.shown}: its tokenizer puts tokens after a prompt ({whole} for {plain}), which no bundle can "
            "say; give a tokenizer that does not"
        )
    said = Published(start=whole[: len(whole) - len(plain)])
    said.tokenizer, said.sentencepiece = (_there(folder / name) for name in (_TOKENIZER, "tokenizer.model"))
    said.stop_texts = [str(text) for text in tokenizer.convert_ids_to_tokens(request.stops)]
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str) and template:
        said.template, said.notes = _template(tokenizer, template, bool(said.start))
        said.affixes = affixes_of(lambda messages: _render(tokenizer, messages))
    return said.model_dump(mode="json")


def _there(file: Path) -> str:
    if not file.is_file():
        return ""
    read_bytes(file, "give the tokenizer's own file", TEXT)
    return str(file)


def _template(tokenizer: Any, template: str, has_start: bool) -> tuple[str, list[str]]:
    """The template as the engine needs it: it gives parts for texts, and knows no names of tokens."""
    before, notes = "", []
    parts = [{"role": "user", "content": [{"type": "text", "text": _MARK}, {"type": "text", "text": "."}]}]
    if _render(tokenizer, parts) != _render(tokenizer, [{"role": "user", "content": f"{_MARK}."}]):
        before += JOINED_PARTS
        notes.append("the template takes texts alone, so that parts are joined first")
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = getattr(tokenizer, name, None)
        # The engine puts the start token there itself.
        if name in template and token and not (name == "bos_token" and has_start):
            before += "{%- set " + name + " = " + json.dumps(str(token)) + " -%}\n"
            notes.append(f"{name} is written into the template")
    return before + template, notes


def _render(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> str | None:
    """None where the template refuses."""
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=False))
    except Exception:  # a template is a program of its own
        return None


def affixes_of(render: Callable[[Sequence[dict[str, Any]]], str | None]) -> dict[str, tuple[str, str]]:
    """What stands before and after a message of each role, told by what is added with it; empty without a pattern.

    render: a conversation as the template has it; None where it refuses.
    """
    found: dict[str, tuple[str, str]] = {}
    roles = {"system": "system", "user": "user", "assistant": "model"}
    messages: list[dict[str, Any]] = []
    so_far = ""
    for role, name in roles.items():
        rendered = render([*messages, {"role": role, "content": _MARK}])
        added = rendered.removeprefix(so_far) if rendered is not None and rendered.startswith(so_far) else None
        if added is None or added.count(_MARK) != 1:
            if role == "system":  # which many templates do not know
                continue
            return {}
        before, after = added.split(_MARK)
        found[name] = (before, after)
        messages.append({"role": role, "content": _MARK})
        so_far = rendered or ""
    return found
