"""Cut through at every tap a flatbuffer computes what it computes whole, and a fault shows at its own tap alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import further_but

from harness.align.feeds import plan_feeds
from harness.align.plan import AlignmentPlan
from harness.align.views import TapSource, tensor_of, view_tensor
from harness.bench.breaking import jiggled
from harness.bench.reseed import patch
from harness.bench.workbench import FILE_STAGES, Bench, bench
from harness.flatbuffer.cut import range_between, write_cut
from harness.flatbuffer.reader import FlatbufferModel
from harness.inputs.tokens import Step
from harness.jobs.reporter import Silent
from harness.jobs.session import trace_inputs
from harness.names.taps import split_tap
from harness.stages.litert.local import keep_cache
from harness.store.trace import MANIFEST, Trace, local

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
# Builtin kernels take a second where the delegate takes a tenth.
SHIPPED_FIRST = ("tflite-xnnpack", "tflite-builtin")


def local_pass(
    model: Bench, stage: str, folder: Path, reference: Path, flatbuffer: Path | None = None, tapped: Path | None = None
) -> Path:
    """Run the local pass of a stage in `folder`; returns where its traces are."""
    files = {"flatbuffer": flatbuffer or model.flatbuffer, "tapped": tapped or model.tapped[0], "plan": model.tapped[1]}
    job = model.job(stage, folder, None, files).model_copy(update={"reference": reference})
    trace_inputs(job, Silent())
    return local(folder / stage)


def differing(traces: Path, others: Path) -> dict[str, list[str]]:
    """Input -> taps whose bits differ, of those that both hold."""
    found = {}
    for folder in sorted(path for path in traces.iterdir() if path.is_dir()):
        one, other = Trace.open(folder), Trace.open(others / folder.name)
        taps = [tap for tap in one.taps if tap in other]
        assert taps
        found[folder.name] = [tap for tap in taps if not np.array_equal(one.load(tap), other.load(tap))]
    return found


def errors(traces: Path, reference: Path) -> dict[str, float]:
    """Tap -> largest error of any input over the largest value of the reference."""
    found: dict[str, float] = {}
    for folder in sorted(path for path in traces.iterdir() if path.is_dir()):
        one, other = Trace.open(folder), Trace.open(reference / folder.name)
        for tap in one.taps:
            expected = other.load(tap)
            error = float(np.abs(one.load(tap) - expected).max() / np.abs(expected).max())
            found[tap] = max(found.get(tap, 0.0), error)
    return found


@pytest.mark.parametrize("stage", FILE_STAGES)
def test_fed_with_its_own_trace_a_flatbuffer_gives_the_same_bits(stage: str, tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    made = local_pass(llama, stage, tmp_path, llama.sound / stage)
    assert differing(llama.sound / stage, made) == {item.id: [] for item in llama.prepared.inputs}


SOUND = (
    *("amd_llama", "deepseek", "gemma2", "hammer", "llama3_2", "phi2", "phi3", "phi4", "qwen2_5", "qwen3"),
    *("smollm", "smollm2", "openelm", "falcon"),
    *("tiny_llama:no-hlfb", "tiny_llama:kv=transposed", "tiny_llama:no-hlfb,kv=transposed", "tiny_llama:mask-as-input"),
    *("gemma1:kv=transposed", "gemma3:kv=transposed"),
)

USUAL = ("gemma2",)  # with windows, softcaps and norms everywhere; the sweep takes them all


@pytest.mark.parametrize("stage", FILE_STAGES)
@pytest.mark.parametrize("name", further_but([], USUAL, SOUND))
def test_so_does_every_model_and_every_variant(name: str, stage: str, tmp_path: Path) -> None:
    name, _, variant = name.partition(":")
    model = bench(name, variant=variant or "default")
    made = local_pass(model, stage, tmp_path, model.sound / stage)
    assert differing(model.sound / stage, made) == {item.id: [] for item in model.prepared.inputs}
    assert set(Trace.open(made / "short").taps) == set(Trace.open(model.sound / stage / "short").taps)


def test_what_attention_reads_of_a_cache_that_was_never_written_shows(tmp_path: Path) -> None:
    """Gemma 1 on builtin kernels mixes up the axes of K, and so reads rows that hold padding there and zeros here."""
    gemma = bench("gemma1")
    made = local_pass(gemma, "tflite-builtin", tmp_path, gemma.sound / "tflite-builtin")
    points = {
        tap.partition("attn.")[2] for taps in differing(gemma.sound / "tflite-builtin", made).values() for tap in taps
    }
    assert points == {"probs", "context"}


@pytest.mark.parametrize("stage", SHIPPED_FIRST)
def test_an_unbroken_flatbuffer_adds_no_more_than_rounding_at_any_tap(stage: str, tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    made = local_pass(llama, stage, tmp_path, llama.sound / "reauthored")
    assert max(errors(made, llama.sound / "reauthored").values()) < 2e-5


@pytest.mark.parametrize("stage", SHIPPED_FIRST)
def test_each_of_two_faults_shows_at_its_own_tap_and_at_no_other(stage: str, tmp_path: Path) -> None:
    """Up projection of block 0 and fused q, k, v of block 1, every number by 1e-4: nothing after them is charged."""
    llama = bench("tiny_llama")
    broken, tapped = tmp_path / "broken.tflite", tmp_path / "tapped.tflite"
    for file, source in ((broken, llama.flatbuffer), (tapped, llama.tapped[0])):
        shutil.copyfile(source, file)
        for name in ("model.layers.0.mlp.up_proj.weight", "qkv.1"):
            weight = llama.constant(name)
            patch(file, weight, jiggled(torch_of(weight)).numpy())
    made = local_pass(llama, stage, tmp_path, llama.sound / "reauthored", broken, tapped)
    found = errors(made, llama.sound / "reauthored")
    wrong = {"block.0.mlp.up", "block.1.attn.q", "block.1.attn.k", "block.1.attn.v"}
    assert {tap for tap, error in found.items() if error > 2e-5} == wrong


def torch_of(values: Array) -> Any:
    import torch

    return torch.from_numpy(values.copy())


def test_without_a_head_in_the_cache_the_cut_is_made_on_the_spot(tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    reference = llama.sound / "tflite-builtin"
    bare = tmp_path / "tapped.tflite"
    shutil.copyfile(llama.tapped[0], bare)
    made = local_pass(llama, "tflite-builtin", tmp_path, reference, tapped=bare)
    assert differing(reference, made) == {item.id: [] for item in llama.prepared.inputs}


def test_a_tap_that_the_reference_lacks_is_not_cut_at(tmp_path: Path) -> None:
    """What reads it gets the file's own values, so nothing is compared with zeros."""
    llama = bench("tiny_llama")
    reference = tmp_path / "reference"
    shutil.copytree(llama.sound / "tflite-xnnpack", reference)
    for manifest in reference.rglob(MANIFEST):
        content = json.loads(manifest.read_text())
        del content["taps"]["block.0.mlp.gate"], content["taps"]["block.1.attn.k"]
        manifest.write_text(json.dumps(content))
    made = local_pass(llama, "tflite-xnnpack", tmp_path, reference)
    assert differing(llama.sound / "tflite-xnnpack", made) == {item.id: [] for item in llama.prepared.inputs}


def test_a_row_of_the_cache_that_a_later_step_destroys_is_kept() -> None:
    """The next step is given the reference's cache again: what a step did to earlier rows would be lost."""
    llama = bench("tiny_llama")
    job = llama.job("tflite-xnnpack", Path("unused"))
    source = TapSource("block.0.cache.k", 7, 0, "cache_k", "k", "DYNAMIC_UPDATE_SLICE")
    reference = FakeTrace(np.ones((1, 4, 2, 3), np.float32))
    caches: dict[str, Array] = {}
    first, second, third = (np.zeros((1, 6, 2, 3), np.float32) for _ in range(3))
    first[:, :2] = second[:, :2] = third[:, :3] = 1
    second[:, 1] = 9  # destroyed by the second step
    for start, valid, after in ((0, 2, first), (2, 1, second), (3, 1, third)):
        after[:, start : start + valid] = 5
        step = Step("decode", valid, start, valid)
        keep_cache(caches, {source.tap: source}, {"edge_parity/7": after}, reference, step, job)
    assert caches[source.tap][0, :, 0, 0].tolist() == [5, 9, 5, 5, 0, 0]


class FakeTrace:
    def __init__(self, values: Array) -> None:
        self.values = values

    def load(self, tap: str) -> Array:
        return self.values


# --- back from taps to tensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    further_but(["tiny_llama"], ["tiny_llama", *USUAL], [*SOUND, "gemma1", "gemma3"]),
)
def test_a_tensor_is_made_of_its_taps_as_they_are_made_of_it(name: str) -> None:
    name, _, variant = name.partition(":")
    model = bench(name, variant=variant or "default")
    file, random = FlatbufferModel(model.flatbuffer), np.random.default_rng(0)
    for signature, sources in AlignmentPlan.read(model.tapped[1]).sources.items():
        graph = file.subgraph(file.signatures[signature].subgraph)
        feeds = plan_feeds(graph, sources, set(sources))
        fed = {tap for feed in feeds for tap in feed.taps}
        outer = {tap for tap, source in sources.items() if not source.inner} - {"logits"}
        again = {tap for tap in outer if sources[tap].tensor in {feed.tensor for feed in feeds}}
        assert again == outer, "every tap but the last is fed"
        assert len(fed) >= len(outer) * 0.8
        for feed in feeds:
            values = random.standard_normal(feed.shape).astype(np.float32)
            layout = model.prepared.dimensions.layout_of(split_tap(feed.taps[0])[0] or 0)
            kv_layout = model.prepared.variant.kv_layout
            taps = {sources[tap].view: view_tensor(values, sources[tap], layout, kv_layout) for tap in feed.taps}
            assert np.array_equal(tensor_of(taps, sources[feed.taps[0]], feed.shape, layout, kv_layout), values)


# --- a range as a file of its own ----------------------------------------------------------------------------------


def run_file(path: Path, stage: str, signature: str, values: dict[str, Array]) -> dict[str, Array]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if stage == "tflite-builtin" else OpResolverType.AUTO
    interpreter = Interpreter(str(path), num_threads=2, experimental_op_resolver_type=resolver)
    return dict(interpreter.get_signature_runner(signature)(**values))


def inputs_of(path: Path, signature: str, change: Callable[[str, Array], Array]) -> dict[str, Array]:
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(str(path)).get_signature_runner(signature).get_input_details()
    return {name: change(name, np.zeros(entry["shape"], entry["dtype"])) for name, entry in details.items()}


@pytest.mark.parametrize("stage", FILE_STAGES)
@pytest.mark.parametrize("signature", ["prefill_32", "decode"])
def test_a_block_cut_out_gives_the_same_bits_as_in_place(stage: str, signature: str, tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    random = np.random.default_rng(0)

    def fill(name: str, values: Array) -> Array:
        if name == "tokens":
            return random.integers(3, 500, values.shape).astype(values.dtype)
        if name == "input_pos":
            return np.arange(values.size, dtype=values.dtype)
        return random.standard_normal(values.shape).astype(values.dtype)

    arguments = inputs_of(llama.flatbuffer, signature, fill)
    whole = run_file(llama.tapped[0], stage, signature, arguments)
    file, sources = FlatbufferModel(llama.flatbuffer), AlignmentPlan.read(llama.tapped[1]).sources[signature]
    entry, before, after = (
        file.signatures[signature],
        sources["block.0.out"].tensor,
        sources["block.1.out"].tensor,
    )
    cut = range_between(file, entry.subgraph, {before}, [after])
    named = {name: index for name, index in entry.inputs.items() if index in cut.inputs}
    assert set(cut.inputs) == {before, *named.values()}
    target = tmp_path / "block.tflite"
    write_cut(llama.flatbuffer, target, cut, {"before": before, **named}, {"after": after})
    values = {"before": whole[f"edge_parity/{before}"], **{name: arguments[name] for name in named}}
    made = run_file(target, stage, "cut", values)["after"]
    assert np.array_equal(made, whole[f"edge_parity/{after}"])
    assert target.stat().st_size < 0.5 * llama.flatbuffer.stat().st_size, "only what the range uses is written"


def test_a_cut_says_which_of_its_inputs_have_no_name(tmp_path: Path) -> None:
    llama = bench("tiny_llama")
    file, sources = FlatbufferModel(llama.flatbuffer), AlignmentPlan.read(llama.tapped[1]).sources["decode"]
    subgraph = file.signatures["decode"].subgraph
    cut = range_between(file, subgraph, {sources["block.0.mlp.act"].tensor}, [sources["block.0.mlp.out"].tensor])
    assert cut.inputs == (sources["block.0.mlp.act"].tensor,)
    assert [file.subgraph(subgraph).operators[index].kind for index in cut.operators] == ["FULLY_CONNECTED"]
    with pytest.raises(ValueError, match="have no name"):
        write_cut(llama.flatbuffer, tmp_path / "cut.tflite", cut, {}, {"out": cut.outputs[0]})
    with pytest.raises(ValueError, match="made by no operator"):
        range_between(file, subgraph, set(), [file.signatures["decode"].inputs["tokens"]])
