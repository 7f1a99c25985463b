"""A tokenizer made a SentencePiece model, which is all that a `.task` takes, by litert-torch's own tool.

In: a checkpoint folder. Out: the model, as a file. The tool goes by rules of thumb and says so itself: what it makes is
to be held against the tokenizer, as the check of a bundle does.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError, told
from harness.jobs.reporter import Reporter
from harness.stages.litert_torch.imports import import_litert_torch
from harness.weights.tokenizer_files import load_tokenizer


def convert(payload: dict[str, object], report: Reporter) -> dict[str, object]:
    """payload: `checkpoint`, `vocabulary` and `shown` as `load_tokenizer` takes them, `target` for the model.

    Raises UsageError for a tokenizer that the tool does not take.
    """
    report.progress(0, 1, "converting the tokenizer")
    folder, vocabulary, shown = Path(str(payload["checkpoint"])), int(str(payload["vocabulary"])), str(payload["shown"])
    tokenizer = load_tokenizer(folder, vocabulary, shown)
    import_litert_torch()
    from litert_torch.generative.tools import tokenizer_to_sentencepiece_lib

    try:
        model = tokenizer_to_sentencepiece_lib.convert(tokenizer, "decode")
    except Exception as error:  # whatever it meets in a tokenizer that it does not know
        raise UsageError(
            f"{shown}: its tokenizer cannot be made a SentencePiece model ({told(error)}), and a .task takes no other; "
            "make a .litertlm"
        ) from None
    Path(str(payload["target"])).write_bytes(model)
    return {"pieces": len(model)}
