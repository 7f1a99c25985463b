"""What is said of a run as a whole, in a sentence each. In: record and taps. Out: sentences for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.record.record import Record
from harness.render.laws import law_words
from harness.render.speed import speed_words, unsteady_words
from harness.render.words import reach_words, text_words

if TYPE_CHECKING:
    import pandas as pd


def said_of(record: Record, frame: pd.DataFrame) -> list[str]:
    """How fast it is, how well it reads, how far its numbers reach, its laws; what was not asked is left out."""
    said = speed_words(record), unsteady_words(record), text_words(record), reach_words(frame), law_words(record)
    return [words for words in said if words]
