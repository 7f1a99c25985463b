"""The two flatbuffers of a run: the converted one and its tapped copy, both from the cache where they are there.

In: a `Prepared` model. Out: paths. These functions run in processes of their own.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.align.family import file_family
from harness.align.feeds import plan_feeds
from harness.align.flatbuffer import plan_signature
from harness.align.keras_names import KerasNaming, keras_naming
from harness.align.naming import LINEAR_ROLES, hf_naming
from harness.align.plan import FILE, AlignmentPlan
from harness.audit.constants import audit_constants
from harness.audit.finite import file_findings
from harness.audit.kept import found_findings, kept_findings
from harness.audit.recipe import Float32Weights, audit_recipe, signature_findings
from harness.audit.vectors import vector_findings
from harness.errors import UsageError
from harness.flatbuffer.integrity import reading_failed
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import can_run
from harness.flatbuffer.tap import write_tapped
from harness.inputs.tokens import schedule_of
from harness.jobs.prepared import ConvertRequest, Prepared, QuantiseRequest, TapRequest
from harness.jobs.reporter import Reporter, costs_only_this_stage
from harness.jobs.results import ConstantsAudit, Converted, Tapped
from harness.jobs.session import AS_NAMED, Given
from harness.names.codes import FindingCode
from harness.names.recipes import GIVEN_FILE
from harness.names.stages import FLOAT, HF, KERAS
from harness.names.taps import block_tap
from harness.pipeline.conversions import (
    CONVERSIONS,
    FLATBUFFER,
    QUANTISED,
    check_quantised,
    converted,
    key_of_recipe,
    quantised,
)
from harness.record.record import Finding
from harness.spec.conversion_reads import Reader
from harness.spec.load import load_spec
from harness.spec.model import SpecRef
from harness.spec.numerics import settle
from harness.spec.route import RouteModel, route_of
from harness.store.cache import Cache, key_of, sha256_of, source_of
from harness.store.digests import sha256_once

TAPPED = "tapped"
CONSTANTS = "constants"
_CONSTANTS_FILE = "constants.json"


def convert_model(payload: object, report: Reporter, given: Given = AS_NAMED) -> dict[str, object]:
    """Convert, or find the conversion in the cache. payload: a `ConvertRequest`. Returns a `Converted`.

    given: whoever hands in what loads the network keeps the conversion in a cache of its own.
    """
    request = ConvertRequest.model_validate(payload)
    prepared, recipe = request.prepared, request.recipe
    key = key_of_recipe(prepared, recipe)
    cache = Cache(Path(request.cache_root), say=print)
    report.progress(0, 1, "looking in the cache")

    reader = Reader(Path(request.spec_file), cache)
    made = False

    def build() -> tuple[RouteModel, Any]:
        nonlocal made
        made = True
        report.progress(0, 1, "converting")
        model = load_spec(SpecRef.of(request.spec_file, request.spec_variable))
        own = route_of(model).model(
            model, miniature=prepared.miniature, layers=prepared.layers, variant=prepared.variant
        )
        with costs_only_this_stage(), reader.watching():
            network = given.loaded(own, Path(prepared.checkpoint), prepared.kv_cache_len)
        settle()  # the spec's own functions have run since it was loaded
        return own, network

    def write(built: tuple[RouteModel, Any], file: Path) -> None:
        own, network = built
        if recipe == FLOAT:
            own.write(network, file, prepared.prefill, prepared.kv_cache_len)
            return
        own.write_quantised(network, file, prepared.prefill, prepared.kv_cache_len, recipe, prepared.inputs)
        check_quantised(file, recipe, "the converter")

    path = converted(cache, key, build, write, reader)
    digest = cache.checksums(CONVERSIONS, key)[FLATBUFFER]
    return Converted(flatbuffer=str(path), sha256=digest, cached=not made).model_dump()


def quantise_model(payload: object, report: Reporter) -> dict[str, object]:
    """Quantise a converted flatbuffer, or find it in the cache. payload: a `QuantiseRequest`. Returns a `Converted`."""
    request = QuantiseRequest.model_validate(payload)
    report.progress(0, 1, "quantising")
    cache, rules = Cache(Path(request.cache_root), say=print), request.prepared.recipes[request.recipe]
    path, made = quantised(cache, Path(request.flatbuffer), request.sha256, rules, request.recipe)
    digest = cache.checksums(QUANTISED, path.parent.name)[FLATBUFFER]
    return Converted(flatbuffer=str(path), sha256=digest, cached=not made).model_dump()


def tap_flatbuffer(payload: object, report: Reporter) -> dict[str, object]:
    """Align a flatbuffer with the taps and write its tapped copy. Cached by the file's content and our own code.

    payload: a `TapRequest`. Returns a `Tapped`.
    """
    request = TapRequest.model_validate(payload)
    prepared, source, recipe = request.prepared, Path(request.flatbuffer), request.recipe
    report.progress(0, 2, "reading")
    digest = request.sha256 or sha256_of(source)
    cache = Cache(Path(request.cache_root), say=print)
    code = {name: sha256_of(source_of(name)) for name in _ALIGNMENT_CODE}
    dims = prepared.dimensions.model_dump()
    names = {tap: entry.get(HF) for tap, entry in prepared.modules.items()}
    wanted = {"points": prepared.points, "own_blocks": prepared.own_blocks, HF: names}
    if keras := keras_names_of(prepared):
        wanted[KERAS] = [keras.block, sorted(keras.tails.items())]
    key = key_of({"flatbuffer": digest, "dimensions": dims, **wanted, "code": code})

    def make(folder: Path) -> None:
        report.progress(1, 2, "writing the tapped copy")
        write_tapped_and_plan(source, folder, prepared)

    own = request.sha256 is None
    if recipe != FLOAT:
        _refuse_rotations(source, recipe)
    if own:
        _open_in_runtime(source)
    with readable(source, own):
        folder = cache.build(TAPPED, key, make)
    # A quantised file holds no parameter bit by bit.
    with readable(source, own):
        if recipe == FLOAT:
            audited = _audit_constants(cache, prepared, source, digest)
            audited.findings += not_run_findings(FlatbufferModel(source), prepared)
        else:
            audited = _audit_quantised(cache, request, folder / FILE, digest)
    files = {"tapped": str(folder / FLATBUFFER), "plan": str(folder / FILE), "sha256": digest}
    return Tapped(**dict(audited), **files).model_dump(mode="json")


def _refuse_rotations(source: Path, recipe: str) -> None:
    """Raises UsageError for a file that rotates the inputs of layers: its weights are rotated too, and nothing here
    knows by what.
    """
    rotations = [name for name in FlatbufferModel(source).custom_operators if "rotation" in name]
    if rotations:
        what = f"--tflite {source}" if recipe == GIVEN_FILE else f"--quantize {recipe}"
        raise UsageError(
            f"{what} rotates the inputs of layers ({rotations[0]}), which is not judged yet; give one without rotation"
        )


def _open_in_runtime(source: Path) -> None:
    """The runtime has a look of its own at the tables. Raises UsageError where it refuses them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:  # no memory is planned yet
        Interpreter(str(source), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    except ValueError as error:
        words = " ".join(str(error).split())[:200]
        raise UsageError(f"{source} is damaged: the runtime refuses it ({words}); convert it again") from None


@contextmanager
def readable(source: Path, own: bool) -> Iterator[None]:
    """A file that somebody else made may hold what no converter writes; what was converted here may not.

    own: whether the user gave the file. Raises UsageError then.
    """
    try:
        yield
    except (UsageError, OSError, MemoryError):
        raise
    except Exception as error:
        if not own:
            raise
        traceback.print_exc()  # into the log
        raise UsageError(f"{source} is damaged: {reading_failed(error)}; convert it again") from None


def not_run_findings(file: FlatbufferModel, prepared: Prepared) -> list[Finding]:
    """A warning for the signatures of the file that no input of the run takes: nothing else tells what they compute."""
    used: set[str] = set()
    for item in prepared.inputs:
        steps = schedule_of(item, prepared)
        used |= {step.signature for step in steps}
    left = [name for name in file.signatures if name not in used]
    usual, other = [name for name in left if can_run(name)], [name for name in left if not can_run(name)]
    own = "Edge Parity runs decode and prefill_N alone"
    unused = f"no input takes {'them' if len(usual) > 1 else 'it'}"
    give = "; give inputs of as many tokens with --inputs"
    return [
        Finding(
            kind="runtime",
            code=FindingCode.SIGNATURES_NOT_RUN,
            severity="warning",
            what=f"{_subject(names)} not run: {why}, {_UNSEEN}{remedy}",
        )
        for names, why, remedy in ((other, own, ""), (usual, unused, give))
        if names
    ]


_UNSEEN = "so nothing that comes of it is compared"


def _subject(names: list[str]) -> str:
    """The signatures of a sentence, with its verb."""
    *rest, last = names
    listed = f"{', '.join(rest)} and {last}" if rest else last
    return f"signature{'s' if rest else ''} {listed} of the flatbuffer {'were' if rest else 'was'}"


def _audit_constants(cache: Cache, prepared: Prepared, source: Path, digest: str) -> ConstantsAudit:
    """The flatbuffer's constants against the checkpoint, by value; cached by the content of both and our own code."""
    code = {name: sha256_of(source_of(name)) for name in _CONSTANTS_CODE}
    parameters = [parameter.model_dump() for parameter in prepared.parameters]
    content = {"flatbuffer": digest, "weights": prepared.source.sha256, "parameters": parameters, "code": code}

    def make(folder: Path) -> None:
        found = audit_constants(
            FlatbufferModel(source),
            prepared.parameters,
            Path(prepared.checkpoint),
            prepared.tables,
            prepared.windows,
        )
        _write_audit(
            folder,
            ConstantsAudit(findings=found.findings, constants_matched=found.matched, constants_computed=found.computed),
        )

    folder = cache.build(CONSTANTS, key_of({**content, "tables": prepared.tables, "windows": prepared.windows}), make)
    return ConstantsAudit.model_validate_json((folder / _CONSTANTS_FILE).read_text())


def _write_audit(folder: Path, audit: ConstantsAudit) -> None:
    (folder / _CONSTANTS_FILE).write_text(audit.model_dump_json(exclude_none=True))


def _audit_quantised(cache: Cache, request: TapRequest, plan: Path, digest: str) -> ConstantsAudit:
    """A recipe's file against the float32 one that it was made of, or one that the user gave against the checkpoint;
    cached by the content of both, by where their taps are and by our own code. plan: of the recipe's file.
    """
    source, recipe, prepared = Path(request.flatbuffer), request.recipe, request.prepared
    rules = prepared.recipes.get(recipe, [])
    plain = Path(request.float32) if request.float32 else None
    code = {name: sha256_of(source_of(name)) for name in (RECIPE_CODE if plain else GIVEN_CODE)}

    def make(folder: Path) -> None:
        file, places = FlatbufferModel(source), AlignmentPlan.read(plan)
        family = readable_family(file, places)
        if plain is None:  # the stage that has the checkpoint's weights in hand compares them
            told = [*file_findings(file, recipe), *signature_findings(file, places.sources, recipe)]
            told += vector_findings(file, prepared.parameters, Path(prepared.checkpoint))
            _write_audit(folder, ConstantsAudit(findings=told, family=family))
            return
        float32 = FlatbufferModel(plain)
        weights = Float32Weights(float32, AlignmentPlan.read(Path(request.float32_plan)).sources)
        wrong, fits = audit_recipe(file, places.sources, rules, recipe, weights.of)
        same = found_findings if recipe in prepared.converted else kept_findings
        findings = [*file_findings(file, recipe), *wrong, *same(file, places.sources, float32, recipe)]
        _write_audit(folder, ConstantsAudit(findings=findings, layers=fits, family=family))

    content = {
        "flatbuffer": digest,
        "float32": sha256_once(plain, cache) if plain else "",
        "plans": [sha256_of(Path(path)) for path in (plan, request.float32_plan) if path],
        "rules": rules,
        "recipe": recipe,
        "weights": "" if plain else prepared.source.sha256,
        "parameters": [] if plain else [parameter.model_dump() for parameter in prepared.parameters],
    }
    folder = cache.build(CONSTANTS, key_of({**content, "code": code}), make)
    return ConstantsAudit.model_validate_json((folder / _CONSTANTS_FILE).read_text())


def readable_family(file: FlatbufferModel, plan: AlignmentPlan) -> str:
    """The family of a file's recipe; empty where a layer cannot be read."""
    try:
        return file_family(file, plan.sources)
    except ValueError:  # the fake-quantised stage ends with it, and names the layer
        return ""


_CONSTANTS_CODE = (
    "harness.audit.beyond_half",
    "harness.audit.constants",
    "harness.audit.computed",
    "harness.audit.finite",
    "harness.align.keras_names",
    "harness.audit.folded",
    "harness.audit.masks",
    "harness.audit.named_constants",
    "harness.audit.pieces",
    "harness.audit.turned",
    "harness.audit.values",
    "harness.flatbuffer.reader",
    "harness.flatbuffer.reads",
    "harness.flatbuffer.signatures",
    "harness.names.owners",
    "harness.weights.files",
    "harness.weights.parameters",
)
RECIPE_CODE = (
    "harness.align.family",
    "harness.align.layout",
    "harness.align.views",
    "harness.align.weights",
    "harness.audit.finite",
    "harness.audit.grid",
    "harness.audit.kept",
    "harness.audit.recipe",
    "harness.flatbuffer.constants",
    "harness.flatbuffer.quantise",
    "harness.flatbuffer.quantised",
    "harness.flatbuffer.reader",
    "harness.names.owners",
    "harness.names.recipe_families",
)
# Of a file that the user gave, whose biases and norms are held against the checkpoint.
GIVEN_CODE = (*RECIPE_CODE, *_CONSTANTS_CODE, "harness.audit.vectors")


_ALIGNMENT_CODE = (
    "harness.names.coverage",
    "harness.names.taps",
    "harness.align.keras_names",
    "harness.align.naming",
    "harness.align.flatbuffer",
    "harness.align.feeds",
    "harness.align.plan",
    "harness.align.layout",
    "harness.align.views",
    "harness.flatbuffer.reader",
    "harness.flatbuffer.signatures",
    "harness.flatbuffer.tap",
    "harness.flatbuffer.writing",
    "harness.stages.litert.stage",
    "harness.stages.litert.local",
)


def keras_names_of(prepared: Prepared) -> KerasNaming | None:
    """By which tensors of a file are known that was converted of a Keras model; None on any other route."""
    if prepared.own_stage != KERAS:
        return None
    own = {tap: entry.get(KERAS) or "" for tap, entry in prepared.modules.items()}
    layers = {role: own.get(block_tap(0, point), "") for point, role in LINEAR_ROLES.items()}
    found = own.get(block_tap(0, "out"), "")
    return keras_naming({role: path for role, path in layers.items() if path}, "{}".join(found.rsplit("0", 1)))


def write_tapped_and_plan(source: Path, folder: Path, prepared: Prepared) -> None:
    """Write the tapped copy of a flatbuffer and the plan of its taps into a folder. Raises UsageError."""
    from harness.stages.litert.local import SEVERED_HEAD, fed_inputs
    from harness.stages.litert.stage import tapped_outputs

    file = FlatbufferModel(source)
    wanted = [name for name in file.signatures if can_run(name)]
    dims = prepared.dimensions
    points = tuple(prepared.points)
    hf, keras = hf_naming(prepared.modules, dims.hf_interleaved), keras_names_of(prepared)
    plans = {
        name: plan_signature(file, file.signatures[name], dims.blocks, points, prepared.own_blocks, hf, keras)
        for name in wanted
    }
    sources = {name: plan.sources for name, plan in plans.items()}
    feeds = {
        name: plan_feeds(file.subgraph(file.signatures[name].subgraph), found, set(found))
        for name, found in sources.items()
    }
    write_tapped(
        source, folder / FLATBUFFER, tapped_outputs(sources), fed_inputs(feeds), severed_head=folder / SEVERED_HEAD
    )
    AlignmentPlan(sources, {name: plan.missing for name, plan in plans.items()}, feeds).write(folder / FILE)
    if not any(plan.sources for plan in plans.values()):
        raise UsageError(
            f"{source}: no tensor could be aligned; its tensor names carry no module paths, "
            "convert it with litert-torch's Generative API or its export_hf"
        )
