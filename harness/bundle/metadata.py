"""What a bundle says of its model: start and stop tokens, context, templates.

In: the bytes of a `.litertlm`'s metadata (LiteRT-LM's `LlmMetadata`) or of a `.task`'s (MediaPipe's `LlmParameters`).
Out: one `LlmMetadata` for both, and the other way round. Raises `WireError` for what is neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.bundle import wire

# Fields of `LlmMetadata`, https://github.com/google-ai-edge/LiteRT-LM, runtime/proto/llm_metadata.proto
_START, _STOP, _AFFIXES, _SAMPLER, _MOST_TOKENS, _TYPE, _JINJA = 1, 2, 3, 4, 5, 6, 7
_OTHERS = {
    8: "channels",
    9: "suppress_tokens",
    10: "kv_cache_init_value",
    11: "supports_thinking",
    12: "supports_function_calling",
    13: "pad_token",
    14: "min_runtime_version",
}
# Of `TokenUnion`.
_IDS, _TEXT = 1, 2
MODEL_TYPES = {
    1: "generic_model", 2: "gemma3n", 3: "function_gemma", 4: "gemma3", 5: "qwen3", 7: "qwen2p5", 8: "gemma4",
    9: "fast_vlm", 11: "lfm2", 12: "minicpm5", 13: "minicpmv4",
}  # fmt: skip
_GENERIC = 1
# Fields of `LlmParameters`, https://github.com/google-ai-edge/mediapipe, mediapipe/tasks/cc/genai/inference/proto
_P_START_ID, _P_STOP, _P_START, _P_NORMALISATIONS, _P_AFFIXES = 4, 5, 6, 7, 17
_P_OTHERS = {
    1: "transformer_parameters",
    2: "vocab_size",
    8: "prompt_template",
    9: "num_draft_tokens",
    11: "user_role_token",
    12: "system_role_token",
    13: "model_role_token",
    14: "end_role_token",
    16: "submodel_transformer_parameters",
}
_ROLES = {1: "user", 2: "model", 3: "system"}
# Of what stands before and after a message: MediaPipe's has a field for the beginning of a session before them.
_PLACES, _P_PLACES = (1, 2), (2, 3)


@dataclass(frozen=True)
class Token:
    """A token or several, by id or as text. A text stands for the ids that the tokenizer makes of it."""

    ids: tuple[int, ...] = ()
    text: str = ""

    def __str__(self) -> str:
        return repr(self.text) if self.text else ", ".join(map(str, self.ids)) or "nothing"

    def __bool__(self) -> bool:
        return bool(self.ids or self.text)


@dataclass(frozen=True)
class LlmMetadata:
    """start: what an engine puts before a prompt; empty for none. most_tokens: positions of the context; 0 where the
    file does not say. template: of a chat, in Jinja; empty where there is none. affixes: role -> what stands before and
    after a message, where there is no template. model_type: empty where the file does not say. others: fields that are
    not looked at. unknown: numbers of fields that this version does not know.
    """

    start: Token = Token()
    stop: tuple[Token, ...] = ()
    most_tokens: int = 0
    template: str = ""
    affixes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    model_type: str = ""
    others: tuple[str, ...] = ()
    unknown: tuple[int, ...] = ()
    bytes_to_unicode: bool = False  # of a .task: whether the tokenizer is one of bytes

    def as_litertlm(self) -> bytes:
        """As a `.litertlm` stores it: what this version looks at, without `others`."""
        fields: list[tuple[int, int | str | bytes]] = []
        if self.start:
            fields.append((_START, _token(self.start)))
        fields += [(_STOP, _token(token)) for token in self.stop]
        if self.affixes:
            fields.append((_AFFIXES, _affixes_message(self.affixes, _PLACES)))
        if self.most_tokens:
            fields.append((_MOST_TOKENS, self.most_tokens))
        numbers = {name: number for number, name in MODEL_TYPES.items()}
        fields.append((_TYPE, wire.message([(numbers.get(self.model_type, _GENERIC), b"")])))
        if self.template:
            fields.append((_JINJA, self.template))
        return wire.message(fields)

    def as_task(self) -> bytes:
        """As a `.task` stores it. It has no place for a template in Jinja, nor for the length of the context."""
        fields: list[tuple[int, int | str | bytes]] = []
        if self.start.ids:
            fields.append((_P_START_ID, self.start.ids[0]))
        fields += [(_P_STOP, token.text) for token in self.stop]
        if self.start.text:
            fields.append((_P_START, self.start.text))
        if self.bytes_to_unicode:
            fields.append((_P_NORMALISATIONS, wire.packed([1])))
        if self.affixes:
            fields.append((_P_AFFIXES, _affixes_message(self.affixes, _P_PLACES)))
        return wire.message(fields)


def read_litertlm(data: bytes) -> LlmMetadata:
    """Raises WireError."""
    fields = wire.read_message(data)
    kinds = [key for held in wire.messages(fields, _TYPE) for key in held]
    known = {_START, _STOP, _AFFIXES, _SAMPLER, _MOST_TOKENS, _TYPE, _JINJA, *_OTHERS}
    return LlmMetadata(
        start=_last(_tokens(fields, _START)),
        stop=tuple(_tokens(fields, _STOP)),
        most_tokens=wire.number(fields, _MOST_TOKENS),
        template=wire.text(fields, _JINJA),
        affixes=_affixes(fields, _AFFIXES, _PLACES),
        model_type=MODEL_TYPES.get(kinds[-1], f"model type {kinds[-1]}") if kinds else "",
        others=(
            *(["sampler_params"] if _SAMPLER in fields else []),
            *(_OTHERS[key] for key in fields if key in _OTHERS),
        ),
        unknown=tuple(sorted(fields.keys() - known)),
    )


def read_task(data: bytes) -> LlmMetadata:
    """Raises WireError."""
    fields = wire.read_message(data)
    ids = [wire.number(fields, _P_START_ID)] if _P_START_ID in fields else []
    known = {_P_START_ID, _P_STOP, _P_START, _P_NORMALISATIONS, _P_AFFIXES, *_P_OTHERS}
    return LlmMetadata(
        start=Token(tuple(ids), wire.text(fields, _P_START)),
        stop=tuple(Token(text=text) for text in wire.texts(fields, _P_STOP)),
        affixes=_affixes(fields, _P_AFFIXES, _P_PLACES),
        others=tuple(_P_OTHERS[key] for key in fields if key in _P_OTHERS),
        unknown=tuple(sorted(fields.keys() - known)),
        bytes_to_unicode=1 in wire.numbers(fields, _P_NORMALISATIONS),
    )


def _tokens(fields: wire.Fields, number: int) -> list[Token]:
    found = []
    for union in wire.messages(fields, number):
        ids = [one for held in wire.messages(union, _IDS) for one in wire.numbers(held, 1)]
        found.append(Token(tuple(ids), wire.text(union, _TEXT)))
    return found


def _last(tokens: Sequence[Token]) -> Token:
    return tokens[-1] if tokens else Token()


def _token(token: Token) -> bytes:
    if token.text:
        return wire.message([(_TEXT, token.text)])
    return wire.message([(_IDS, wire.message([(1, wire.packed(token.ids))]))])


def _affixes(fields: wire.Fields, number: int, places: tuple[int, int]) -> dict[str, tuple[str, str]]:
    held = wire.messages(fields, number)
    if not held:
        return {}
    return {
        name: (wire.text(one[-1], places[0]), wire.text(one[-1], places[1]))
        for key, name in _ROLES.items()
        if (one := wire.messages(held[-1], key))
    }


def _affixes_message(affixes: Mapping[str, tuple[str, str]], places: tuple[int, int]) -> bytes:
    numbers = {name: number for number, name in _ROLES.items()}
    parts = [
        (numbers[role], wire.message([(place, text) for place, text in zip(places, pair, strict=True) if text]))
        for role, pair in affixes.items()
    ]
    return wire.message(sorted(parts))
