"""What a run keeps of single positions, tokens and errors: `details/`, small tables beside the record.

In: `Details`. Out: a parquet file per table, and the way back. A run of an older version has none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.system.reading import MB, check_file

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "details"
COLUMNS = {
    "positions": ("hop", "input", "tap", "position", "excess", "limit"),
    "logits": ("hop", "input", "position", "kl", "margin", "noise", "top1_from", "top1_to", "flip"),
    "tokens": ("input", "position", "stage", "rank", "token", "logit", "probability"),
    "words": ("token", "text"),
    "histograms": ("hop", "input", "tap", "at_least", "count"),
}


@dataclass(frozen=True)
class Details:
    """Tables with the columns of `COLUMNS`.

    positions: excess of each position, at a few taps of each hop. logits: of each position compared; `flip` is empty,
    `within noise` or `above noise`. tokens: the most likely tokens of each stage at chosen positions, best first.
    words: text of the tokens that occur, where there is a tokenizer. histograms: how many elements of a tap have an
    error of at least that size (and less than the next), over the root mean square of the reference's elements.
    """

    positions: pd.DataFrame
    logits: pd.DataFrame
    tokens: pd.DataFrame
    words: pd.DataFrame
    histograms: pd.DataFrame


def write_details(folder: Path, details: Details) -> None:
    """Write `details/` into a run folder."""
    target = folder / FOLDER
    target.mkdir(exist_ok=True)
    for name in COLUMNS:
        getattr(details, name).to_parquet(target / f"{name}.parquet", index=False)


def read_details(folder: Path) -> Details | None:
    """The details of a run folder; None where it has none. Raises UsageError when they are damaged."""
    import pandas as pd

    target = folder / FOLDER
    if not target.is_dir():
        return None
    read = {}
    for table in fields(Details):
        path = target / f"{table.name}.parquet"
        check_file(path, f"run the model again, or delete {target}", 1000 * MB)
        try:
            read[table.name] = pd.read_parquet(path)[list(COLUMNS[table.name])]
        except Exception as error:  # native code raises whatever garbage leads it to
            raise UsageError(f"{path} cannot be read ({error}); run the model again, or delete {target}") from None
    return Details(**read)


def table(name: str, rows: list[tuple[object, ...]]) -> pd.DataFrame:
    """Rows as the table of that name."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS[name]))
