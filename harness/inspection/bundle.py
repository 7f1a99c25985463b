"""What is in a bundle: its sections, its metadata, its tokenizer, and the flatbuffers as any.

In: a path. Out: `BundleContents`. Flatbuffers are copied out of it, since runtimes take a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.bundle.reader import extract, tokenizer_json
from harness.bundle.sections import Bundle, Form, Section, SectionKind
from harness.bundle.tokenizers import described
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.inspection.inspect import read_contents
from harness.plain import one_line
from harness.record.bundle import BundleContents, MetadataContents, SectionContents
from harness.record.contents import FileContents

_LONGEST = 200


def contents_of_bundle(bundle: Bundle) -> BundleContents:
    """Everything but the flatbuffers. Raises UsageError for a damaged tokenizer."""
    said = bundle.metadata
    return BundleContents(
        file=str(bundle.path),
        form=str(bundle.form),
        size=bundle.size,
        version=bundle.version,
        system=_shown(bundle.system),
        sections=[_section(section) for section in bundle.sections],
        rest=bundle.rest,
        metadata=None
        if said is None
        else MetadataContents(
            start=str(said.start) if said.start else "",
            stop=[str(token) for token in said.stop],
            most_tokens=said.most_tokens,
            template=said.template,
            affixes={role: list(pair) for role, pair in said.affixes.items()},
            model_type=said.model_type,
            others=list(said.others),
            unknown=list(said.unknown),
        ),
        tokenizer="; ".join(described(bundle, section) for section in bundle.tokenizers),
    )


@contextmanager
def extracted(bundle: Bundle) -> Iterator[list[tuple[Section, Path]]]:
    """The flatbuffers, each in a file of its own for as long as it is open."""
    with TemporaryDirectory(prefix="edge-parity-") as folder:
        made = []
        for section in bundle.of_kind(SectionKind.FLATBUFFER):
            file = Path(folder) / f"section-{section.number}.tflite"
            extract(bundle, section, file)
            made.append((section, file))
        yield made


def read_flatbuffer(bundle: Bundle, section: Section, file: Path) -> tuple[FlatbufferModel, FileContents]:
    """What is in one of them. Raises UsageError that names the bundle."""
    try:
        model, found = read_contents(file)
    except UsageError as error:
        raise UsageError(str(error).replace(str(file), f"{bundle.path}: section {section.number}")) from None
    found.file = f"section {section.number} of {bundle.path.name}"
    return model, found


def write_parts(bundle: Bundle, folder: Path) -> list[Path]:
    """Write every section as a file of its own. Raises UsageError where a name is taken."""
    targets = [(section, folder / _file_name(bundle, section)) for section in bundle.sections]
    taken = next((target for _, target in targets if target.exists() or target.is_symlink()), None)
    if taken is not None:
        raise UsageError(f"--extract {folder}: {taken.name} is there already; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for section, target in targets:
        if section.kind is SectionKind.HF_TOKENIZER:
            target.write_bytes(tokenizer_json(bundle, section))
        else:
            extract(bundle, section, target)
    return [target for _, target in targets]


def _file_name(bundle: Bundle, section: Section) -> str:
    """None of the file's own words, which may come from a stranger."""
    metadata = "metadata.llm_metadata.pb" if bundle.form is Form.LITERTLM else "metadata.llm_parameters.pb"
    names = {
        SectionKind.FLATBUFFER: "model.tflite",
        SectionKind.HF_TOKENIZER: "tokenizer.json",
        SectionKind.SENTENCEPIECE: "tokenizer.model",
        SectionKind.METADATA: metadata,
    }
    return f"section-{section.number}.{names.get(section.kind, 'bin')}"


def _section(section: Section) -> SectionContents:
    return SectionContents(
        number=section.number,
        kind=str(section.kind),
        name=one_line(section.name, _LONGEST),
        model_type=one_line(section.model_type, _LONGEST),
        begin=section.begin,
        size=section.size,
        sha256=section.sha256,
        about=_shown(section.items),
    )


def _shown(items: Mapping[str, str]) -> dict[str, str]:
    return {one_line(key, _LONGEST): one_line(value, _LONGEST) for key, value in items.items()}
