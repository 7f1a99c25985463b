"""What the engine generates on exact tokens: greedily by itself, and after each of the reference's tokens.

In: an `EngineJob`. Out: a `LoopSaid`. Entered in a process of its own, with nothing else in it: the engine may crash or
hang.

The engine takes text alone, so the flatbuffer is put into a bundle whose tokenizer is one of ids. No token of the model
ends a text there: what the engine gives is cut as the stages' is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.bundle.identity import tokenizer_of_ids
from harness.bundle.metadata import LlmMetadata, Token
from harness.bundle.writer import flatbuffer_part, hf_tokenizer_part, metadata_part, write_litertlm
from harness.jobs.loops import EngineJob, LoopSaid
from harness.jobs.reporter import Reporter
from harness.stages.litert_lm.engine import Engine, EngineError, engine_version, open_engine
from harness.store.cache import sha256_of

_BUNDLE = "model.litertlm"


def run(payload: object, report: Reporter) -> dict[str, object]:
    """payload: an `EngineJob`. Returns a `LoopSaid`. Raises RuntimeError where the engine refuses something."""
    asked = EngineJob.model_validate(payload)
    said = LoopSaid(tokens={}, runtime=engine_version(), sha256=sha256_of(Path(asked.flatbuffer)))
    with tempfile.TemporaryDirectory(prefix="edge-parity-engine-") as folder:
        report.progress(0, 1 + len(asked.prompts), "opening the bundle")
        bundle = Path(folder) / _BUNDLE
        write_bundle_of_ids(bundle, Path(asked.flatbuffer), asked.vocabulary, asked.context)
        at = "opening the bundle"
        try:
            with open_engine(str(bundle), threads=1) as engine:
                for number, (at, prompt) in enumerate(asked.prompts.items(), start=1):
                    report.progress(number, 1 + len(asked.prompts), at)
                    own, followed = generated(engine, asked, prompt, asked.follow[at])
                    said.tokens[at], said.followed[at] = own, followed
        except EngineError as error:
            raise RuntimeError(f"the engine: {at}: {error}") from None
    return said.model_dump(mode="json")


def write_bundle_of_ids(target: Path, flatbuffer: Path, vocabulary: int, context: int) -> None:
    """The engine wants a token at which to end: it is told one that the model cannot say."""
    metadata = LlmMetadata(stop=(Token((vocabulary,)),), most_tokens=context, model_type="generic_model")
    tokenizer = hf_tokenizer_part(tokenizer_of_ids(vocabulary + 1))
    write_litertlm(target, [metadata_part(metadata), tokenizer, flatbuffer_part(flatbuffer)])


def generated(
    engine: Engine, asked: EngineJob, prompt: Sequence[int], right: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What the engine says by itself, and what it says after each of the reference's tokens (`right`).

    Where it says another one, it goes on in a new session that is given the reference's. Raises EngineError.
    """
    room = asked.context - len(prompt)
    own = engine.generate(prompt, min(asked.tokens, room))
    followed = _agreeing(own, right)
    while len(followed) < min(len(right), room):
        more = engine.generate([*prompt, *right[: len(followed)]], min(len(right), room) - len(followed))
        followed += _agreeing(more, right[len(followed) :])
    return own, followed


def _agreeing(said: Sequence[int], right: Sequence[int]) -> list[int]:
    """What was said up to the first other token, with that one: what comes after it follows another text."""
    other = next((at for at, pair in enumerate(zip(said, right, strict=False)) if pair[0] != pair[1]), None)
    return list(said[: min(len(said), len(right)) if other is None else other + 1])
