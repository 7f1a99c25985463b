"""What a position of the context may be at the edge of, and what each is called.

In: nothing. Out: names. A boundary at N means that position N is the first one past it.
"""

from __future__ import annotations

WINDOW = "window"  # the sliding window's length
ROPE = "rope"  # what a scaled rope was trained for: original_max_position_embeddings
TABLE = "table"  # the longest sequence that the re-authored model has rotations for
CACHE = "cache"  # positions of the KV cache
CHUNK = "chunk"  # where prefill goes on with another chunk
DECODE = "decode"  # where prefill ends and decode begins

WORDS = {
    WINDOW: "the sliding window's edge",
    ROPE: "the boundary of the scaled rope",
    TABLE: "the end of the rope table",
    CACHE: "the last position of the KV cache",
    CHUNK: "the start of a prefill chunk",
    DECODE: "where decode begins",
}
