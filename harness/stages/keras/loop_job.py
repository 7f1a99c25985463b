"""Files that generate by themselves, converted and run: ids to ids by LiteRT, text to text where Flex is.

In: a `LoopJob`. Out: a `LoopSaid`. Entered in a process of its own; the file of text runs in one more, whose
interpreter is that of the environment with Flex (`harness/store/flex.py`).
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.jobs.loops import LoopJob, LoopSaid
from harness.jobs.prepared import Prepared
from harness.jobs.reporter import Reporter, costs_only_this_stage
from harness.jobs.session import AS_NAMED, Given
from harness.pipeline.conversions import CONVERSIONS, FLATBUFFER, converted
from harness.spec.conversion_reads import Reader
from harness.spec.fingerprints import fingerprint, source_digest
from harness.spec.load import load_spec
from harness.spec.model import SpecRef
from harness.spec.numerics import settle
from harness.spec.route import route_of
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.greedy import GENERATE, GENERATED, LENGTH, TOKENS, LoopSizes, write_greedy
from harness.store.cache import Cache, key_of, sha256_of, source_of
from harness.system.reading import SETTINGS, read_json, read_text
from harness.weights.rewriting import tokenizer_files
from harness.weights.small_tokenizer import MERGES_FILE, VOCAB_FILE

_OWN_CODE = ("harness.stages.keras.greedy", "harness.stages.keras.network", "harness.stages.keras.text")
_SCRIPT = Path(__file__).with_name("flex_script.py")


def run(payload: object, report: Reporter, given: Given = AS_NAMED) -> dict[str, object]:
    """payload: a `LoopJob`. given: see `Given`; whoever hands in what loads the network names a cache of its own."""
    asked = LoopJob.model_validate(payload)
    report.progress(0, 2, "looking in the cache")
    try:
        file, sha256 = _file(asked, report, given)
    except UsageError as error:  # a run that has come so far is not thrown away for it
        raise RuntimeError(str(error)) from None
    report.progress(1, 2, "generating")
    if asked.text:
        said = run_text(file, {item.id: item.text or "" for item in asked.prompts}, Path(asked.python))
    else:
        said = run_ids(file, {item.id: item.tokens for item in asked.prompts})
    return LoopSaid(**said, sha256=sha256).model_dump(mode="json")


def sizes_of_loop(prepared: Prepared, longest: int, tokens: int) -> LoopSizes:
    """longest: tokens of the longest prompt. It is prefilled in one step, in a size that a signature has if it can."""
    fitting = [size for size in sorted(prepared.prefill) if size >= longest]
    return LoopSizes(fitting[0] if fitting else prepared.kv_cache_len, tokens, prepared.kv_cache_len)


def _file(asked: LoopJob, report: Reporter, given: Given) -> tuple[Path, str]:
    """The file, from the cache or converted now, and its SHA-256."""
    request, prepared = asked.request, asked.request.prepared
    cache, checkpoint = Cache(Path(request.cache_root), say=print), Path(prepared.checkpoint)
    sizes = sizes_of_loop(prepared, max(len(item.tokens) for item in asked.prompts), asked.tokens)
    with costs_only_this_stage():
        model = load_spec(SpecRef.of(request.spec_file, request.spec_variable))
    assert isinstance(model, KerasModel), "no other route has these files"
    reader = Reader(Path(request.spec_file), cache)

    def build() -> Any:
        report.progress(0, 2, "converting")
        own = route_of(model).model(model, miniature=prepared.miniature, layers=prepared.layers)
        with costs_only_this_stage(), reader.watching():
            network = given.loaded(own, checkpoint, prepared.kv_cache_len)
        settle()  # the spec's own functions have run since it was loaded
        return network

    def write(network: Any, file: Path) -> None:
        if not asked.text:
            write_greedy(model, network, prepared.dimensions, file, sizes)
            return
        from harness.stages.keras.text import write_text

        tokenizer = tokenizer_for(model, checkpoint)
        write_text(model, network, tokenizer, prepared.dimensions, file, sizes, prepared.stop_tokens)

    key = _key(asked, model, sizes)
    path = converted(cache, key, build, write, reader)
    return path, cache.checksums(CONVERSIONS, key)[FLATBUFFER]


def _key(asked: LoopJob, model: KerasModel, sizes: LoopSizes) -> str:
    prepared = asked.request.prepared
    content: dict[str, Any] = {
        "of": prepared.conversion_key,
        "sizes": [sizes.prompt, sizes.tokens, sizes.cache],
        "own": {name: source_digest(source_of(name)) for name in _OWN_CODE},
    }
    if asked.text:
        files = [file for file in tokenizer_files(Path(prepared.checkpoint)) if file.name in (VOCAB_FILE, MERGES_FILE)]
        content |= {
            "stops": prepared.stop_tokens,
            "tokenizer": fingerprint(model.tokenizer),
            "files": {file.name: sha256_of(file) for file in files},
            "version": version("tensorflow-text"),
        }
    return key_of(content)


def tokenizer_for(model: KerasModel, checkpoint: Path) -> Any:
    """The tokenizer that goes into the file: the declaration's, or KerasHub's own with the checkpoint's byte pairs."""
    if model.tokenizer is not None:
        return model.tokenizer(checkpoint)
    from harness.stages.keras.text import tokenizer_of

    remedy = "give the model's own tokenizer files"
    vocabulary = read_json(checkpoint / VOCAB_FILE, remedy)
    lines = read_text(checkpoint / MERGES_FILE, remedy, SETTINGS).split("\n")
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    if not isinstance(vocabulary, dict) or any(len(line.split(" ")) != 2 for line in merges):
        raise UsageError(f"{checkpoint}: {VOCAB_FILE} and {MERGES_FILE} are not those of byte pairs; {remedy}")
    return tokenizer_of(model, vocabulary, merges)


def run_ids(file: Path, prompts: Mapping[str, list[int]]) -> dict[str, Any]:
    """Run a file that takes ids on LiteRT, as it ships. prompts: by input. Returns fields of a `LoopSaid`."""
    from ai_edge_litert.interpreter import Interpreter

    generate = Interpreter(str(file)).get_signature_runner(GENERATE)
    size = int(generate.get_input_details()[TOKENS]["shape"][1])
    found = {}
    for name, tokens in prompts.items():
        padded = np.array([[*tokens, *[0] * (size - len(tokens))]], np.int32)
        made = generate(**{TOKENS: padded, LENGTH: np.array([len(tokens)], np.int32)})
        found[name] = [int(token) for token in made[GENERATED].reshape(-1)]
    return {"tokens": found, "runtime": f"ai-edge-litert {version('ai-edge-litert')}"}


def run_text(file: Path, prompts: Mapping[str, str], python: Path) -> dict[str, Any]:
    """Run a file that takes text in a process of another interpreter. Returns fields of a `LoopSaid`.

    prompts: by input. python: of the environment that has Flex. Raises RuntimeError where the process ends badly.
    """
    with tempfile.TemporaryDirectory(prefix="edge-parity-text-") as folder:
        told, said = Path(folder) / "told.json", Path(folder) / "said.json"
        asked = {"flatbuffer": str(file), "prompts": {name: text.encode().hex() for name, text in prompts.items()}}
        told.write_text(json.dumps(asked), encoding="utf-8")
        # What it prints goes where this process prints: into the log. It ends with this process.
        words = [str(python), "-I", "-B", str(_SCRIPT), str(told), str(said)]
        code = subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
        if code:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise RuntimeError(f"the process with Flex {how}")
        found = json.loads(said.read_text(encoding="utf-8"))
    given = found["given"]
    return {
        "tokens": {name: one["tokens"] for name, one in given.items()},
        "prompt_tokens": {name: one["prompt_tokens"] for name, one in given.items()},
        "texts": {name: bytes.fromhex(one["text"]).decode("utf-8", "replace") for name, one in given.items()},
        "runtime": found["runtime"],
    }
