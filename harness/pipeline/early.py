"""What of a run's options cannot be, as far as the command line and the declaration tell, as it is read.

In: `Options` and a `SpecRef`. Out: a UsageError where they ask for what the KV cache has no room for, for a cache or
layers that the model has not, for text where there is no tokenizer, or for rules that the quantiser refuses. Preparing
says the same of what only running tells, and takes as long as the frameworks take to be imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.inputs.given import check_jsonl, no_tokenizer
from harness.inputs.text import NO_TOKENIZER
from harness.plain import brief
from harness.spec.model import Model, SpecRef
from harness.spec.sizes import longest_declared, published_layers
from harness.weights.configs import stored_layers
from harness.weights.first_layers import check_layers
from harness.weights.sources import TOKENIZER_FILES

if TYPE_CHECKING:
    from harness.pipeline.options import Options


def check_early(options: Options, ref: SpecRef) -> None:
    """Raises UsageError."""
    lacking = lacks_tokenizer(options, ref)
    if options.inputs_file is not None:
        check_jsonl(options.inputs_file, lacks_tokenizer=lacking)
    if lacking and options.prompts:
        raise no_tokenizer(chat=options.chat)
    if lacking and options.text is not None:
        raise UsageError(f"--text needs a tokenizer and {NO_TOKENIZER}; leave it out")
    check_declared_layers(options, ref)
    if options.tflite is None:
        check_length(options.variant.kv_cache_len, longest_declared(ref), ref.name)
        check_room(options, known_cache(options, ref), known_prefill(options, ref))
    if any(recipe.rules for recipe in options.quantize):
        from harness.flatbuffer.quantise import refuse_rules
        from harness.names.recipes import rules_of

        for recipe in options.quantize:
            if recipe.rules:
                refuse_rules(rules_of(recipe), recipe.name)


def check_length(kv_cache_len: int | None, longest: int | None, name: str) -> None:
    """Raises UsageError for a KV cache longer than a model computes. longest: None where that is not known."""
    if kv_cache_len is not None and longest is not None and kv_cache_len > longest:
        raise UsageError(
            f"a KV cache of {brief(kv_cache_len)} positions is longer than {name} computes, whose max_seq_len is "
            f"{longest}; give a shorter --kv-cache-len"
        )


def check_declared_layers(options: Options, ref: SpecRef) -> None:
    """Raises UsageError for more layers than the declaration, or the config.json of a person's folder, says there
    are."""
    if options.layers is None:
        return
    folder = None if options.checkpoint is None else Path(options.checkpoint).expanduser()
    if folder is None:
        what, total = ref.name, published_layers(ref)
    elif folder.is_dir():
        what, total = str(folder), stored_layers(folder)
    else:  # of the hub
        return
    if total is not None:
        check_layers(options.layers, total, what)


def check_room(options: Options, kv_cache_len: int | None, prefill: Sequence[int] = ()) -> None:
    """Raises UsageError for more tokens than any prompt leaves room for.

    kv_cache_len: None where it is not known. prefill: lengths of the signatures, as far as they are.
    """
    if kv_cache_len is None:
        return
    longest = max(prefill, default=0)
    if longest > kv_cache_len:
        raise UsageError(
            f"a prefill of {longest} does not fit the KV cache of {kv_cache_len} positions; give shorter lengths "
            "with --prefill, or a longer cache with --kv-cache-len"
        )
    # A prompt has one token at least; the last token that is generated takes no place.
    for name, asked, most in (
        ("--decode", options.decode, kv_cache_len - 1),
        (options.generate_option, options.generate, kv_cache_len),
    ):
        if asked > most:
            raise UsageError(
                f"{name} {brief(asked)} does not fit the KV cache of {kv_cache_len} positions, which leaves {most} "
                f"after a prompt of one token; give a smaller {name} or a longer --kv-cache-len"
            )


def known_cache(options: Options, ref: SpecRef) -> int | None:
    """Positions of the KV cache at most, where the command line or the declaration says so as it is read."""
    if options.variant.kv_cache_len is not None:
        return options.variant.kv_cache_len
    declared = _declared(ref, "kv_cache_len")
    return declared if isinstance(declared, int) else None


def known_prefill(options: Options, ref: SpecRef) -> Sequence[int]:
    """The lengths of the prefill signatures, where the command line or the declaration says so as it is read."""
    if options.variant.prefill is not None:
        return options.variant.prefill
    declared = _declared(ref, "prefill")
    known = isinstance(declared, (tuple, list)) and all(isinstance(length, int) for length in declared)
    return declared if known else ()


def _declared(ref: SpecRef, name: str) -> Any:
    """What a declaration says of a size, or leaves to the default; None where reading it does not tell."""
    if ref.unread or ref.has_run or "variant" in ref.declared:
        return None
    return ref.declared.get(name, next(field.default for field in dataclasses.fields(Model) if field.name == name))


def lacks_tokenizer(options: Options, ref: SpecRef) -> bool:
    """Whether the weights are known to come without a tokenizer: those of a miniature, or of a folder that has none."""
    if options.checkpoint is not None:
        folder = Path(options.checkpoint).expanduser()
        return folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES)
    if ref.unread or ref.has_run or ref.declared.get("small_tokenizer", False):
        return False
    return options.miniature or "weights" not in ref.declared
