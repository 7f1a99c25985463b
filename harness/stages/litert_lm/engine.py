"""LiteRT-LM's engine on this CPU: what an app loads a bundle into.

In: the path of a bundle. Out: an open engine that says what its tokenizer, its template and its prefill make of a text.
It may crash or hang, so it is opened in a process that does nothing else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from typing import Any

from harness.bundle.identity import ids_of, text_of
from harness.errors import UsageError
from harness.system.extras import LITERT_LM, why_not

Message = Mapping[str, Any]  # {"role": ..., "content": a text or a list of parts}
_DISTRIBUTION = "litert-lm-api"


class EngineError(Exception):
    """The engine refuses something; says what it said."""


def engine_version() -> str:
    """`litert-lm-api 0.18.1`. Raises UsageError where it is not installed."""
    if missing := why_not(LITERT_LM):
        raise UsageError(missing)
    return f"{_DISTRIBUTION} {version(_DISTRIBUTION)}"


class Engine:
    """An engine that has a bundle open."""

    def __init__(self, opened: Any, library: Any) -> None:
        self._engine, self._library = opened, library

    @property
    def start(self) -> list[int]:
        """The tokens that it is told to put before a prompt."""
        token = self._engine.bos_token_id
        return [] if token is None else [token]

    @property
    def stops(self) -> list[list[int]]:
        """The sequences of tokens at which it ends a text."""
        return [list(ids) for ids in self._engine.eos_token_ids]

    def tokenize(self, text: str) -> list[int]:
        """Without what is put before a prompt. A NUL ends the text. Raises EngineError."""
        with self._refusals():
            return list(self._engine.tokenize(text))

    def prefilled(self, text: str) -> int:
        """How many tokens a prompt becomes in the KV cache. Raises EngineError."""
        with self._refusals(), closing(self._session(1)) as session:
            session.run_prefill([text])
            return int(session.get_benchmark_info().last_prefill_token_count)

    def generate(self, prompt: Sequence[int], count: int) -> list[int]:
        """So many tokens after a prompt, greedily, in a session of their own. The bundle's tokenizer is one of ids.

        Raises EngineError, also where it gives another number of tokens or takes another number of them.
        """
        with self._refusals(), closing(self._session(count)) as session:
            session.run_prefill([text_of(prompt)])
            taken = int(session.get_benchmark_info().last_prefill_token_count)
            said = ids_of("".join(session.run_decode().texts))
        if taken != len(prompt) or len(said) != count:
            raise EngineError(
                f"it took {taken} of {len(prompt)} tokens of a prompt, and gave {len(said)} of {count} asked for"
            )
        return said

    def render(self, messages: Sequence[Message]) -> str:
        """What the template makes of a conversation, the answer's beginning included. Raises EngineError.

        A template that fails gives an empty text and no exception: what it said then is asked for.
        """
        with self._refusals():
            conversation = self._engine.create_conversation(messages=list(messages[:-1]) or None)
            try:
                found = str(conversation.render_message_to_string(dict(messages[-1])))
            finally:
                conversation.close()
        if not found:
            raise EngineError(self._said())
        return found

    def _session(self, most: int) -> Any:
        from litert_lm import SamplerConfig

        greedy = SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)
        return self._engine.create_session(apply_prompt_template=False, sampler_config=greedy, max_output_tokens=most)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            raise EngineError(self._said() or str(error)) from None

    def _said(self) -> str:
        return last_error(self._library)


@contextmanager
def open_engine(path: str, threads: int = 2) -> Iterator[Engine]:
    """Raises EngineError where the engine does not take the bundle, UsageError where there is none installed."""
    engine_version()
    from litert_lm import Backend
    from litert_lm import Engine as LiteRtLm
    from litert_lm._ffi import LogSeverity, _get_lib, set_min_log_severity

    set_min_log_severity(LogSeverity.ERROR)
    library = _get_lib()
    try:
        opened = LiteRtLm(path, backend=Backend.CPU(thread_count=threads), cache_dir=":nocache", enable_benchmark=True)
    except RuntimeError as error:
        raise EngineError(last_error(library) or str(error)) from None
    try:
        yield Engine(opened, library)
    finally:
        opened.close()


def last_error(library: Any) -> str:
    """What the engine's library said last, its first line; empty where it said nothing."""
    ask = library.litert_lm_get_last_error_message
    ask.restype = ctypes.c_char_p
    lines = (ask() or b"").decode(errors="replace").splitlines()
    return lines[0] if lines else ""
