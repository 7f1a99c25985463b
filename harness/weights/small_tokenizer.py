"""The tokenizer of a miniature: byte pairs as GPT-2 has them, learned from prose that ships.

In: nothing. Out: tokenizer files in a checkpoint folder. It is small and real: any text has tokens, and any tokens of
its vocabulary are text.
"""

from __future__ import annotations

import json
from pathlib import Path

from harness.inputs.tokens import PROSE

VOCABULARY = 512
ENDS_TEXT = "<|endoftext|>"
RULE = 1  # part of the cache key of what has one: raise it when the files below change
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"


def write_small_tokenizer(folder: Path, size: int = VOCABULARY) -> None:
    """Write the files that a published GPT-2 has. size: of the vocabulary, at least 257."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(ENDS_TEXT, special=True)],
        show_progress=False,
    )
    made.train_from_iterator([PROSE], trainer)
    made.save(str(folder / "tokenizer.json"))
    learned = json.loads(made.to_str())["model"]
    (folder / VOCAB_FILE).write_text(json.dumps(learned["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{one} {other}\n" for one, other in map(_pair, learned["merges"]))
    (folder / MERGES_FILE).write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), ENDS_TEXT)
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Versions of the library write a merge as two words in one, or as two."""
    one, other = merge.split(" ") if isinstance(merge, str) else merge
    return one, other
