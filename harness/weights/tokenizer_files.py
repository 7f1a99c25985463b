"""The tokenizer of a checkpoint folder, or why there is none that can be used.

In: a folder. Out: transformers' tokenizer. Raises UsageError, one line, for files that are damaged or another model's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.weights.configs import first_line, quiet_transformers

_REMEDY = "give the model's own tokenizer files, or remove them and give --inputs with tokens"


def load_tokenizer(folder: Path, vocabulary: int, shown: str) -> Any:
    """vocabulary: tokens that the model has an embedding for. shown: what a person calls the folder.

    Tokens added to a vocabulary may lie beyond it (Gemma 3 has one for images); the vocabulary itself may not.
    """
    with quiet_transformers():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            size = int(tokenizer.vocab_size)
            tokenizer("a", add_special_tokens=False)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library in Rust panics with one that is no Exception
            raise UsageError(
                f"{shown}: the tokenizer cannot be loaded ({type(error).__name__}: {first_line(error)}); {_REMEDY}"
            ) from None
    if size > vocabulary:
        raise UsageError(
            f"{shown}: the tokenizer has a vocabulary of {size:,}, the model one of {vocabulary:,}: "
            f"it is another model's; {_REMEDY}"
        )
    return tokenizer
