"""What a bundle holds against the model that it is to be, as far as reading tells.

In: a bundle, the flatbuffer inside, what the run judged. Out: answers. No engine is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.bundle.metadata import LlmMetadata
from harness.bundle.sections import Bundle, Form, Section, SectionKind
from harness.bundle.tokenizers import looks_like_json
from harness.bundling.answers import Answer
from harness.bundling.judged import Judged
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import DeviceShape, check_width, device_shape, is_quantised
from harness.jobs.job import Dimensions
from harness.names.codes import FindingCode
from harness.names.recipes import GIVEN_FILE
from harness.names.stages import FLOAT

_MAKE_AGAIN = "make it again with 'edge-parity bundle MODEL --out FILE'"


@dataclass(frozen=True)
class Expected:
    """What the bundle is to hold. model: its name. recipe: as declared, `none` for float32."""

    model: str
    dimensions: Dimensions
    recipe: str


def sections(bundle: Bundle) -> Answer:
    """One model, one tokenizer of the right kind, one metadata, and nothing that is not looked at."""
    answer = Answer("sections", ", ".join(map(_section_words, bundle.sections)))
    counted = {
        "flatbuffer that generates text": len(bundle.models),
        "tokenizer": len(bundle.tokenizers),
        "metadata": len(bundle.of_kind(SectionKind.METADATA)),
    }
    for what, count in counted.items():
        if count != 1:
            said = f"{count} sections hold a {what}" if count else f"no section holds a {what}"
            answer.wrong(FindingCode.BUNDLE_SECTIONS_WRONG, f"{said}, and a bundle has one; {_MAKE_AGAIN}")
    if bundle.form is Form.TASK and any(looks_like_json(bundle.read(one)) for one in bundle.tokenizers):
        answer.wrong(
            FindingCode.BUNDLE_SECTIONS_WRONG,
            "the tokenizer of this .task is a tokenizer.json of Hugging Face, and MediaPipe reads SentencePiece models "
            "alone; convert the tokenizer, or make a .litertlm",
        )
    looked_at = (*bundle.models, *bundle.tokenizers, *bundle.of_kind(SectionKind.METADATA))
    others = [section for section in bundle.sections if section not in looked_at]
    if others:
        told = ", ".join(f"{one.number} ({_section_words(one)})" for one in others)
        answer.wrong(
            FindingCode.BUNDLE_NOT_UNDERSTOOD,
            f"sections that are not checked: {told}; check what is in them by other means",
            "warning",
        )
    if bundle.metadata is not None and (bundle.metadata.unknown or bundle.metadata.others):
        names = [*bundle.metadata.others, *(f"field {number}" for number in bundle.metadata.unknown)]
        answer.wrong(
            FindingCode.BUNDLE_NOT_UNDERSTOOD,
            f"the metadata says what is not checked: {', '.join(names)}; check it by other means",
            "warning",
        )
    return answer


def model(file: FlatbufferModel, expected: Expected) -> tuple[Answer, DeviceShape | None]:
    """Whether the flatbuffer can be the model's, and how the engine will take its KV cache."""
    dims, answer = expected.dimensions, Answer("flatbuffer")
    try:
        shape = device_shape(file, dims.blocks, dims.kv_heads, dims.head_dim, dims.vocab, expected.model)
        check_width(file, dims.hidden, dims.vocab, expected.model)
    except UsageError as error:
        said = str(error).replace(f"{file.path} ", "the flatbuffer ").replace(f"{file.path}: ", "the flatbuffer: ")
        answer.wrong(FindingCode.BUNDLE_OTHER_MODEL, said)
        return answer, None
    answer.found = (
        f"prefill {', '.join(map(str, shape.prefill))}, KV cache of {shape.kv_cache_len}, {shape.kv_layout} layout"
    )
    if shape.kv_layout != "transposed":
        answer.wrong(
            FindingCode.BUNDLE_KV_LAYOUT,
            f"the KV cache has the default layout, of which the engine takes the {dims.kv_heads} KV heads for the "
            "length of the context; convert with --kv-layout transposed",
        )
    return answer, shape


def judged(bundle: Bundle, run: Judged | None, expected: Expected, out: str) -> Answer:
    """Whether a run has judged the very file inside."""
    answer = Answer("judged")
    if run is None:
        answer.wrong(
            FindingCode.BUNDLE_FILE_NOT_JUDGED,
            f"no run of {expected.model} in {out} has judged the flatbuffer inside; 'edge-parity inspect {bundle.path} "
            f"--extract FOLDER', then 'edge-parity run {expected.model} --tflite FOLDER/...'",
        )
        return answer
    answer.found = f"the very file of {run.folder.name}: {run.record.verdict}"
    if run.record.verdict != "pass":
        answer.wrong(
            FindingCode.BUNDLE_FILE_NOT_JUDGED,
            f"the run {run.folder.name} that judged the flatbuffer inside says {run.record.verdict}; 'edge-parity "
            f"explain {run.folder}' says why",
        )
    return answer


def quantisation(file: FlatbufferModel, run: Judged | None, expected: Expected) -> Answer:
    """Whether the weights are in the form that was declared."""
    answer = Answer("quantisation", f"as declared: {_words(expected.recipe)}")
    found, wanted = is_quantised(file), expected.recipe != FLOAT
    if found != wanted:
        answer.wrong(
            FindingCode.BUNDLE_RECIPE_DIFFERS,
            f"the flatbuffer inside is {'quantised' if found else 'in float32'}, and declared is "
            f"{_words(expected.recipe)}; say --quantize RECIPE as it is, or make the bundle again",
        )
    elif run is not None and run.recipe not in (expected.recipe, GIVEN_FILE):
        answer.wrong(
            FindingCode.BUNDLE_RECIPE_DIFFERS,
            f"the flatbuffer inside is that of {_words(run.recipe)}, as {run.folder.name} made it, and declared is "
            f"{_words(expected.recipe)}; say --quantize RECIPE as it is, or make the bundle again",
        )
    elif wanted and (run is None or run.recipe == GIVEN_FILE):
        answer.not_checked("quantised, and no run here made it by a recipe, so that the recipe cannot be told")
    return answer


def context(said: LlmMetadata | None, shape: DeviceShape | None, form: Form) -> Answer:
    """Whether the bundle names the length of the KV cache."""
    answer = Answer("context")
    if said is None or shape is None:
        answer.not_checked("there is no metadata" if said is None else "the flatbuffer is another model's")
    elif form is Form.TASK:
        answer.found = f"{shape.kv_cache_len} positions by the KV cache; a .task has no place for it"
    elif said.most_tokens != shape.kv_cache_len:
        answer.wrong(
            FindingCode.BUNDLE_CONTEXT_DIFFERS,
            f"the metadata names a context of {said.most_tokens} tokens, and the KV cache has {shape.kv_cache_len} "
            f"positions; {_MAKE_AGAIN}",
        )
    else:
        answer.found = f"{said.most_tokens} tokens, as the KV cache"
    return answer


def _section_words(section: Section) -> str:
    return " ".join(part for part in (str(section.kind), section.model_type or section.name) if part)


def _words(recipe: str) -> str:
    return "float32" if recipe == FLOAT else f"the recipe {recipe}"
