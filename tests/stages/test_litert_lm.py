"""Bundles in the engine that apps use: one that is right passes, and each that was broken on purpose is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from watching import Watcher

from harness.bundle.metadata import LlmMetadata, Token
from harness.bundle.reader import extract, read_bundle, tokenizer_json
from harness.bundle.writer import flatbuffer_part, hf_tokenizer_part, metadata_part, write_litertlm
from harness.bundling import check
from harness.bundling.check import CheckOptions, check_bundle
from harness.bundling.make import make_bundle
from harness.errors import UsageError
from harness.names.codes import FindingCode
from harness.names.variant import VariantOptions
from harness.pipeline.options import Options
from harness.record.bundle import BundleReport
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.store.cache import Cache
from harness.weights.sources import resolve

pytestmark = pytest.mark.extras("litert-lm")

BOS, EOS = "<s>", "</s>"
# As many templates are: it writes the BOS by its name, and takes texts alone.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '[' + message['role'] + ']' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def tokenizer_files(folder: Path, adds_bos: bool) -> None:
    """A tokenizer of bytes, with a BOS before a prompt or without."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {BOS: 0, EOS: 1, **{letter: place for place, letter in enumerate(letters, start=2)}}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.add_special_tokens([AddedToken(BOS, special=True), AddedToken(EOS, special=True)])
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A miniature with a tokenizer, by whether that adds a BOS."""
    model = load_spec(find_spec("tiny_llama"))
    weights = resolve(model, checkpoint=None, miniature=True, seed=0, cache=Cache.standard()).folder
    found = {}
    for adds_bos in (False, True):
        folder = tmp_path_factory.mktemp("checkpoint") / "weights"
        shutil.copytree(weights, folder)
        tokenizer_files(folder, adds_bos)
        found[adds_bos] = folder
    return found


def options(checkpoint: Path) -> Options:
    return Options(model="tiny_llama", checkpoint=str(checkpoint))


@pytest.fixture(scope="module")
def made(checkpoints: dict[bool, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The bundles of both, as `edge-parity bundle --out` writes them."""
    folder = tmp_path_factory.mktemp("bundles")
    files = {adds_bos: folder / f"{adds_bos}.litertlm" for adds_bos in checkpoints}
    for adds_bos, file in files.items():
        make_bundle(options(checkpoints[adds_bos]), file, Watcher())
    return files


def checked(file: Path, checkpoint: Path, runs: Path) -> BundleReport:
    return check_bundle(CheckOptions(file, options(checkpoint), runs), Watcher())


def errors_of(report: BundleReport) -> set[str]:
    """Without what no run has judged: none has here."""
    found = {finding.code for finding in report.findings if finding.severity == "error"}
    assert FindingCode.BUNDLE_FILE_NOT_JUDGED in found
    return found - {FindingCode.BUNDLE_FILE_NOT_JUDGED}


@pytest.mark.parametrize("adds_bos", [False, True])
def test_what_is_made_is_right_in_the_engine(
    adds_bos: bool, made: dict[bool, Path], checkpoints: dict[bool, Path], tmp_path: Path
) -> None:
    said = read_bundle(made[adds_bos]).metadata
    assert said is not None
    assert said.start == (Token((0,)) if adds_bos else Token())
    report = checked(made[adds_bos], checkpoints[adds_bos], tmp_path)
    assert errors_of(report) == set()
    assert {one.what: one.result for one in report.checks if one.result != "ok"} == {"judged": "wrong"}


def test_the_same_model_gives_the_same_bytes(
    made: dict[bool, Path], checkpoints: dict[bool, Path], tmp_path: Path
) -> None:
    make_bundle(options(checkpoints[True]), tmp_path / "again.litertlm", Watcher())
    assert (tmp_path / "again.litertlm").read_bytes() == made[True].read_bytes()


def changed(file: Path, folder: Path, change: Callable[[LlmMetadata, dict[str, object]], LlmMetadata]) -> Path:
    """The same bundle with other metadata, or another tokenizer. change: gets both, and may change the second."""
    bundle = read_bundle(file)
    assert bundle.metadata is not None
    tokenizer = json.loads(tokenizer_json(bundle, bundle.tokenizers[0]))
    extract(bundle, bundle.models[0], folder / "model.tflite")
    metadata = change(bundle.metadata, tokenizer)
    target = folder / "changed.litertlm"
    write_litertlm(
        target,
        [
            metadata_part(metadata),
            hf_tokenizer_part(json.dumps(tokenizer).encode()),
            flatbuffer_part(folder / "model.tflite"),
        ],
    )
    return target


def swapped(metadata: LlmMetadata, tokenizer: dict[str, object]) -> LlmMetadata:
    model = tokenizer["model"]
    assert isinstance(model, dict)
    words = model["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    return metadata


_BROKEN: dict[str, tuple[Callable[[LlmMetadata, dict[str, object]], LlmMetadata], Sequence[FindingCode]]] = {
    "a BOS too many": (
        lambda metadata, _: replace(metadata, template="{%- set bos_token = '<s>' -%}\n" + metadata.template),
        [FindingCode.BUNDLE_START_DIFFERS],
    ),
    "no BOS": (
        lambda metadata, _: replace(metadata, start=Token()),
        [FindingCode.BUNDLE_START_DIFFERS, FindingCode.BUNDLE_TEMPLATE_DIFFERS],
    ),
    "a template of texts": (
        lambda metadata, _: replace(metadata, template=TEMPLATE),
        [FindingCode.BUNDLE_TEMPLATE_EMPTY],
    ),
    "another template": (
        lambda metadata, _: replace(metadata, template=metadata.template.replace("[assistant]", "[model]")),
        [FindingCode.BUNDLE_TEMPLATE_DIFFERS, FindingCode.BUNDLE_START_DIFFERS],
    ),
    "another stop token": (
        lambda metadata, _: replace(metadata, stop=(Token((5,)),)),
        [FindingCode.BUNDLE_STOP_DIFFERS],
    ),
    "no stop token": (
        lambda metadata, _: replace(metadata, stop=()),
        [FindingCode.BUNDLE_STOP_DIFFERS, FindingCode.BUNDLE_ENGINE_REFUSES, FindingCode.BUNDLE_TEMPLATE_EMPTY],
    ),
    "another context": (
        lambda metadata, _: replace(metadata, most_tokens=64),
        [FindingCode.BUNDLE_CONTEXT_DIFFERS],
    ),
    "two tokens swapped": (swapped, [FindingCode.BUNDLE_TOKENS_DIFFER]),
}


@pytest.mark.parametrize("kind", _BROKEN)
def test_what_was_broken_on_purpose_is_told(
    kind: str, made: dict[bool, Path], checkpoints: dict[bool, Path], tmp_path: Path
) -> None:
    change, codes = _BROKEN[kind]
    report = checked(changed(made[True], tmp_path, change), checkpoints[True], tmp_path)
    assert set(codes) <= errors_of(report)
    assert report.exit_code == 1


def test_an_engine_that_takes_too_long_is_lost(
    made: dict[bool, Path], checkpoints: dict[bool, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "ENGINE_SECONDS", 0.2)
    report = checked(made[True], checkpoints[True], tmp_path)
    assert report.exit_code == 3
    assert "time limit" in report.lost


def test_the_default_kv_layout_is_refused_with_the_remedy(checkpoints: dict[bool, Path], tmp_path: Path) -> None:
    asked = replace(options(checkpoints[True]), variant=VariantOptions(kv_layout="default"))
    with pytest.raises(UsageError, match="give transposed"):
        make_bundle(asked, tmp_path / "a.litertlm", Watcher())
