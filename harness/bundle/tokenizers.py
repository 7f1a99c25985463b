"""What a bundle's tokenizer is, read off its bytes.

In: the content of a tokenizer's section. Out: what it is, in words, or a UsageError. No library of tokenizers is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.bundle import wire
from harness.bundle.reader import tokenizer_json
from harness.bundle.sections import Bundle, Section, SectionKind
from harness.errors import UsageError
from harness.plain import one_line

_PIECES = 1  # of SentencePiece's ModelProto
_LONGEST = 60


def looks_like_json(held: bytes) -> bool:
    """Whether it is the tokenizer.json of Hugging Face, whatever the section says."""
    return held[:64].lstrip().startswith(b"{")


def sentencepieces(held: bytes) -> int:
    """How many pieces a SentencePiece model has. Raises WireError for what is none."""
    pieces = len(wire.read_message(held).get(_PIECES, []))
    if not pieces:
        raise wire.WireError("it has no pieces")
    return pieces


def described(bundle: Bundle, section: Section) -> str:
    """Raises UsageError for a tokenizer that is damaged."""
    if section.kind is SectionKind.HF_TOKENIZER:
        return _words(_json(bundle.path, tokenizer_json(bundle, section)))
    held = bundle.read(section)
    if looks_like_json(held):
        return "a tokenizer.json of Hugging Face where a SentencePiece model should be"
    try:
        return f"SentencePiece, {sentencepieces(held):,} pieces"
    except wire.WireError as error:
        raise UsageError(
            f"{bundle.path}: its tokenizer is no SentencePiece model ({error}); make the bundle again"
        ) from None


def _json(path: Path, held: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(held)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: its tokenizer is no JSON ({one_line(error, _LONGEST)}); make the bundle again"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise UsageError(f"{path}: its tokenizer is not a tokenizer.json (it has no 'model'); make the bundle again")
    return found


def _words(content: Mapping[str, Any]) -> str:
    model = content["model"]
    vocabulary, added = model.get("vocab"), content.get("added_tokens")
    size = len(vocabulary) if isinstance(vocabulary, (dict, list)) else 0
    count = len(added) if isinstance(added, list) else 0
    after = content.get("post_processor")
    kind = after.get("type") if isinstance(after, dict) else None
    said = f"post-processor {one_line(kind, _LONGEST)}" if kind else "no post-processor"
    return f"{one_line(model.get('type', 'of no type'), _LONGEST)}, {size:,} tokens, {count:,} added ones, {said}"
