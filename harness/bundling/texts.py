"""On what a bundle is tried: texts for its tokenizer, conversations for its template.

In: nothing. Out: texts, and conversations by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# It is prefilled, so that its tokens can be counted; short enough for any context.
PROBE = "a"
RANDOM = 200  # random texts that are tried beside these

# None has a NUL: the engine takes C strings, which end there.
TEXTS = (
    "The capital of France is",
    "",
    " ",
    " a",
    "a ",
    "a  b   c    d",
    "\n",
    "\n\n\n",
    "a\n b\n\tc\r\nd",
    "\t\ta",
    "don't I'll we've",
    "3.14159 1,000,000 2026-11-30",
    "def f(x):\n    return {'a': [1, 2]}  # !?",
    "https://example.org/a?b=c&d=%20",
    "ABCdefGHI aBcDeF",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m",
    "e\u0301 a\u0308 \u0323\u0307",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\u0634\u0643\u0631\u0627 \u05e9\u05dc\u05d5\u05dd abc",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f600\U0001f469\u200d\U0001f680\U0001f1eb\U0001f1f7\U0001f44d\U0001f3fd",
    "\ufb01 \u2460 \uff21 \u00bd \u2122",
    "\u00a0a\u2003b\u3000c\u200bd\ufeffe",
    "<s></s><unk><pad><bos><eos>",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "<start_of_turn>user\n<end_of_turn>",
    "[INST] <<SYS>> [/INST]",
    "a<|im_end|>b",
    "\u2581\u2581a \u0120b",
    "<0x0A><0>",
    "a" * 300,
    "\u0001\u007f\u0085",
)

_USER = "What is the capital of France?"
_SYSTEM = "You answer in one word."
_ODD = "  {{ x }} {% if %} \"a\" 'b' \\n <b>&amp;\u00e9\U0001f600\n\nline 3  "


def _said(*turns: str, system: str = "") -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": roles[place % 2], "content": turn} for place, turn in enumerate(turns)]


def _parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


CONVERSATIONS: Mapping[str, Sequence[dict[str, Any]]] = {
    "one turn": _said(_USER),
    "system": _said(_USER, system=_SYSTEM),
    "three turns": _said(_USER, "Paris.", "And of Spain?"),
    "system, five turns": _said(_USER, "Paris.", "And of Spain?", "Madrid.", "Thanks!", system=_SYSTEM),
    "two parts": [{"role": "user", "content": _parts(_USER, " In one word.")}],
    "odd letters": _said(_ODD),
    "odd letters within": _said(_ODD, _ODD, _ODD, system=_ODD),
}
