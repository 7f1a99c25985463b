"""What must hold of a stage with no reference to compare it with: what each law is called, and in words.

In: nothing. Out: names. Pure.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType


class LawName(StrEnum):
    """A word of the record; in the order in which they are checked."""

    RERUN = "rerun"
    PADDING = "padding"
    OWN_SLOTS = "own-slots"
    USED_CACHE = "used-cache"
    SECOND_PROMPT = "second-prompt"
    ANY_ORDER = "any-order"
    PREFILL_IS_DECODES = "prefill-is-decodes"
    CHUNKS_ARE_ONE = "chunks-are-one"
    SECOND_PASS = "second-pass"
    THREADS = "threads"


LAW_WORDS = MappingProxyType(
    {
        LawName.RERUN: "the same steps twice give the same bits",
        LawName.PADDING: "what a padded step is padded with changes no bit of what counts",
        LawName.OWN_SLOTS: "a step writes its own slots of the KV cache and no others",
        LawName.USED_CACHE: "what another conversation left in the KV cache changes no bit",
        LawName.SECOND_PROMPT: "the second prompt of a session gives the bits that it gives in a fresh one",
        LawName.ANY_ORDER: "other signatures and conversations run in between change no bit",
        LawName.PREFILL_IS_DECODES: "prefill of N tokens gives what N decodes give",
        LawName.CHUNKS_ARE_ONE: "prefill in other chunks gives the same",
        LawName.SECOND_PASS: "all inputs once more, last to first, in the same session give the bits that they gave",
        LawName.THREADS: "two threads compute what one does",
    }
)
LAWS_SUFFIX = ".laws"  # of a stage's name: what its laws left among the traces
