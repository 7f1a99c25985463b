"""`edge-parity bundle MODEL --out FILE`: the flatbuffer that a run judges, in a file that an app loads.

In: what names a model, and a path. Out: a `.litertlm` or `.task`, and what was put in. The flatbuffer is that of the
cache, converted now where it is not there.
"""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from harness.bundle.metadata import LlmMetadata, Token
from harness.bundle.reader import read_bundle
from harness.bundle.sections import Bundle, Form
from harness.bundle.writer import (
    Part,
    flatbuffer_part,
    hf_tokenizer_part,
    metadata_part,
    sentencepiece_part,
    write_litertlm,
    write_task,
)
from harness.bundling.published import Published, PublishedRequest
from harness.errors import ProcessLostError, UsageError
from harness.jobs.prepared import Prepared
from harness.jobs.results import Converted
from harness.names.routes import TO_SENTENCEPIECE
from harness.names.stages import FLOAT, XNNPACK, named
from harness.pipeline.options import Options, check, run_words
from harness.pipeline.preparing import prepare
from harness.pipeline.tasks import file_tasks
from harness.pipeline.work import Work, place_of, processes
from harness.processes.scheduler import Task, Watcher
from harness.store.cache import Cache
from harness.weights.sources import TOKENIZER_FILES

TRANSPOSED = "transposed"
_READ = "harness.bundling.published:published"
_CONVERT, _TOKENIZER, _PIECES = "convert", "tokenizer", "sentencepiece"


@dataclass(frozen=True)
class Made:
    """model: its name. notes: what is not as the checkpoint has it. sha256: of the flatbuffer.

    judge, check: commands that judge the flatbuffer and check the bundle.
    """

    bundle: Bundle
    model: str
    notes: tuple[str, ...]
    sha256: str
    judge: str
    check: str


def form_named(target: Path) -> Form:
    """By the end of its name. Raises UsageError."""
    found = next((form for form in Form if target.name.endswith(form)), None)
    if found is None:
        raise UsageError(f"--out {target} is not a bundle by its name; give a name that ends in .litertlm or .task")
    return found


def make_bundle(options: Options, target: Path, watcher: Watcher) -> Made:
    """Raises UsageError for what cannot be bundled, and ProcessLostError."""
    form, options = form_named(target), with_layout(options)
    if target.is_dir():
        raise UsageError(f"--out {target} is a folder; give the name of a file in it, {target}/model{form}")
    ref = check(options)
    with tempfile.TemporaryDirectory(prefix="edge-parity-") as name:
        state = Work(options, ref, Path(name), Cache.standard(), watcher)
        prepared, _ = prepare(state)
        _check(prepared, options)
        file, sha256 = _flatbuffer(state, prepared)
        said = _published(state, prepared, form)
        metadata = _metadata(said, prepared, form)
        target.parent.mkdir(parents=True, exist_ok=True)
        notes = list(said.notes)
        if form is Form.LITERTLM:
            write_litertlm(target, [metadata_part(metadata), _tokenizer_part(said), flatbuffer_part(file)])
        else:
            write_task(target, file, _pieces(state, prepared, said), metadata)
            notes = _task_notes(said)
    judge, check_it = _commands(options, target)
    return Made(read_bundle(target), prepared.model, tuple(notes), sha256, judge, check_it)


def _commands(options: Options, target: Path) -> tuple[str, str]:
    """What judges the flatbuffer, and what checks the bundle."""
    recipe = ["--quantize", options.quantize[0].name] if options.quantize else []
    same = [*(["--checkpoint", options.checkpoint] if options.checkpoint else [])]
    same += ["--miniature"] if options.miniature else []
    same += ["--layers", str(options.layers)] if options.layers else []
    check_it = ["edge-parity", "bundle", str(target), "--check", options.model, *same, *recipe]
    return shlex.join([*run_words(options), *recipe]), shlex.join(check_it)


def _tokenizer_part(said: Published) -> Part:
    if said.tokenizer:
        return hf_tokenizer_part(Path(said.tokenizer).read_bytes())
    return sentencepiece_part(Path(said.sentencepiece).read_bytes())


def with_layout(options: Options) -> Options:
    """The options with the KV layout that the engine needs: of the default one it takes the KV heads for the context.

    Raises UsageError where another one is asked for.
    """
    if options.tflite is not None:
        return options
    asked = options.variant.kv_layout
    if asked not in (None, TRANSPOSED):
        raise UsageError(
            f"--kv-layout {asked}: the engine takes the KV heads of that layout for its context; give transposed, or "
            "leave it out"
        )
    return replace(options, variant=replace(options.variant, kv_layout=TRANSPOSED))


def _check(prepared: Prepared, options: Options) -> None:
    if prepared.variant.kv_layout != TRANSPOSED:
        raise UsageError(
            f"--tflite {options.tflite} has a KV cache of the default layout, of which the engine takes the KV heads "
            "for its context; convert it with --kv-layout transposed"
        )
    if not any((Path(prepared.checkpoint) / name).is_file() for name in TOKENIZER_FILES):
        raise UsageError(
            f"{prepared.source.name} has no tokenizer, and a bundle needs one; give the folder that has it with "
            "--checkpoint"
        )
    if not prepared.stop_tokens:
        raise UsageError(
            f"{prepared.source.name} names no token that ends a text, and the engine needs one; write eos_token_id "
            "into its generation_config.json"
        )


def _flatbuffer(state: Work, prepared: Prepared) -> tuple[Path, str]:
    """The file and its digest: the person's own, or that of the cache."""
    from harness.store.digests import sha256_once

    if state.options.tflite is not None:
        return state.options.tflite, sha256_once(state.options.tflite, state.cache)
    recipe = state.options.quantize[0].name if state.options.quantize else FLOAT
    stages = tuple(dict.fromkeys((XNNPACK, named(XNNPACK, recipe))))
    wanted = [task for task in file_tasks(place_of(state), prepared, stages) if task.name.startswith(_CONVERT)]
    results = processes(state, prepared, wanted)
    for result in results.values():
        if result.status != "ok":
            raise ProcessLostError(f"{result.name} {result.detail}")
    made = results[named(_CONVERT, recipe)].gave(Converted)
    assert made is not None
    return Path(made.flatbuffer), made.sha256


def _published(state: Work, prepared: Prepared, form: Form) -> Published:
    request = PublishedRequest(
        checkpoint=prepared.checkpoint,
        vocabulary=prepared.dimensions.tokens,
        shown=prepared.source.name,
        stops=prepared.stop_tokens,
    )
    task = Task(_TOKENIZER, _READ, request.model_dump(), Published, memory_mb=400)
    result = processes(state, prepared, [task])[_TOKENIZER]
    said = result.gave(Published)
    if said is None:
        raise ProcessLostError(f"reading the tokenizer {result.detail}")
    if form is Form.LITERTLM and not (said.tokenizer or said.sentencepiece):
        raise UsageError(
            f"{prepared.source.name} has neither tokenizer.json nor tokenizer.model; save its tokenizer as one of them"
        )
    return said


def _pieces(state: Work, prepared: Prepared, said: Published) -> bytes:
    """The checkpoint's SentencePiece model, or one that is made of its tokenizer."""
    if said.sentencepiece:
        return Path(said.sentencepiece).read_bytes()
    target = state.folder / "tokenizer.model"
    request = {"checkpoint": prepared.checkpoint, "vocabulary": prepared.dimensions.tokens}
    request |= {"shown": prepared.source.name, "target": str(target)}
    task = Task(_PIECES, TO_SENTENCEPIECE, request, memory_mb=600, torch=True)
    result = processes(state, prepared, [task])[_PIECES]
    if result.status != "ok":
        raise ProcessLostError(f"converting the tokenizer {result.detail}")
    return target.read_bytes()


def _metadata(said: Published, prepared: Prepared, form: Form) -> LlmMetadata:
    start = Token(tuple(said.start))
    if form is Form.TASK:
        return LlmMetadata(start, tuple(Token(text=text) for text in said.stop_texts), affixes=said.affixes)
    stop = tuple(Token((token,)) for token in prepared.stop_tokens)
    return LlmMetadata(start, stop, prepared.kv_cache_len, said.template, model_type="generic_model")


def _task_notes(said: Published) -> list[str]:
    notes = []
    if not said.sentencepiece:
        notes.append("the SentencePiece model was made of tokenizer.json by rules of thumb; the check says where")
    if said.template and not said.affixes:
        notes.append(
            "the chat template is not a pattern of what stands around a message, and a .task has no other place"
        )
    return notes
