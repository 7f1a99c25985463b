"""Whose a fault is: which step of the pipeline made it, and on what evidence.

In: the faults of all hops, the findings and what each stage said of itself. Out: an `Ownership`. Pure.

What no stage could compute from the numbers that it was given is the checkpoint's, or the recipe's that made them.

What the re-authored model computes otherwise is charged to its config or its weights where an audit found the same
place, else to the re-authoring. What a flatbuffer computes otherwise is the converter's where both runtimes show it at
the same tap, and a kernel's where one runtime shows it alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from harness.names.codes import FindingCode
from harness.names.figures import LOCAL_FIGURES
from harness.names.owners import CHECKPOINT, RECIPE, SPEC
from harness.names.stages import HF, KERAS, ORACLE, REAUTHORED, Floor, Hop, own_stages, runs_file, split, stage_named
from harness.names.taps import block_tap, split_tap
from harness.record.record import Fault, Finding

_ATTENTION = ("attn.probs", "attn.context")
# Where a field of the config first acts; `harness/audit/structure.py` says what the fields mean.
_ACTS_AT: Mapping[str, tuple[str, ...]] = {
    "vocabulary": ("embed", "logits"),
    "hidden_size": ("embed",),
    "layers": ("final_norm",),
    "embedding_scale": ("embed",),
    "tied_embeddings": ("embed", "logits"),
    "lm_head_bias": ("logits",),
    "final_softcap": ("logits",),
    "final_norm": ("final_norm",),
    "rope_until": ("attn.q_rope", "attn.k_rope"),
    "rope": ("attn.q_rope", "attn.k_rope"),
    "query_norm": ("attn.q_rope", "attn.k_rope"),
    "key_norm": ("attn.q_rope", "attn.k_rope"),
    "heads": ("attn.q", "attn.k", "attn.v", "attn.context"),
    "kv_heads": ("attn.q", "attn.k", "attn.v", "attn.context"),
    "head_dim": ("attn.q", "attn.k", "attn.v", "attn.context"),
    "qkv_bias": ("attn.q", "attn.k", "attn.v"),
    "query_scale": ("attn.q_rope", "attn.probs", "attn.context"),
    "softcap": ("attn.probs", "attn.context"),
    "window": ("attn.probs", "attn.context"),
    "alibi": ("attn.probs", "attn.context"),
    "output_bias": ("attn.out",),
    "pre_attention": ("attn.norm",),
    "post_attention": ("residual",),
    "pre_mlp": ("mlp.norm",),
    "post_mlp": ("out",),
    "parallel_residual": ("residual", "mlp.norm", "mlp.gate", "mlp.up", "out"),
    "activation": ("mlp.act",),
    "gated": ("mlp.gate", "mlp.up", "mlp.act"),
    "intermediate_size": ("mlp.gate", "mlp.up", "mlp.act"),
    "mlp_bias": ("mlp.gate", "mlp.up", "mlp.out"),
}
# Where the config has another size, weights that fit it cannot be the checkpoint's: the config is at fault, not they.
_SIZES = ("vocabulary", "hidden_size", "layers", "heads", "kv_heads", "head_dim", "intermediate_size")
# Fields of the re-authored config by their own names, for those that a model's class ignores.
_OWN_NAMES = {
    "final_logit_softcap": "final_softcap",
    "logit_softcap": "softcap",
    "sliding_window_size": "window",
    "attention_patterns": "window",
    "rotary_base": "rope",
    "rotary_percentage": "rope",
}
# Weights that act at taps whose module, as the record has it, is a larger part of the model; by the stage that runs it.
# Where several act at one, they stand one after the other.
_WEIGHTS_AT: Mapping[str, Mapping[str, str]] = {
    REAUTHORED: {
        "embed": "tok_embedding",
        "logits": "lm_head",
        "attn.q_rope": "transformer_blocks.{}.atten_func.query_norm",
        "attn.k_rope": "transformer_blocks.{}.atten_func.key_norm",
    },
    KERAS: {"embed": "token_embedding position_embedding", "logits": "token_embedding"},
    HF: {
        "embed": "model.embed_tokens",
        "logits": "lm_head model.embed_tokens",
        "attn.q_rope": "model.layers.{}.self_attn.q_norm",
        "attn.k_rope": "model.layers.{}.self_attn.k_norm",
    },
}


# Errors in weights of a flatbuffer, whichever signature is run, and in those of the re-authored model.
_OF_FILE = (FindingCode.CONSTANT_DIFFERS, FindingCode.CONSTANT_LACKING)
_OF_MODEL = (
    FindingCode.HEAD_DROPPED,
    FindingCode.KEY_NOT_LOADED,
    FindingCode.KEY_WITHOUT_PLACE,
    FindingCode.KEYS_CLASH,
    FindingCode.PARAMETER_DIFFERS,
    FindingCode.PARAMETER_NOT_LOADED,
    FindingCode.SHAPE_DIFFERS,
)


# With one of these it is not known of every weight whether it is the checkpoint's.
_NOT_ALL_KNOWN = frozenset(
    {
        FindingCode.CONSTANT_DIFFERS_IN_PART,
        FindingCode.CONSTANT_LACKING_IN_PART,
        FindingCode.CONSTANT_NOT_COMPARED,
        FindingCode.CONSTANT_TURNED,
        FindingCode.CONSTANTS_UNKNOWN,
        FindingCode.PARAMETERS_NOT_AUDITED,
        FindingCode.WEIGHTS_WRONG,
    }
)
CONVERTER = "converter"


@dataclass(frozen=True)
class Ownership:
    """owner: `re-authoring`, `config`, `weights`, `converter`, `kernels of <stage>` or `memory planner`; `converter or
    kernels of <stage>` where one runtime alone was run; `checkpoint` or `recipe <recipe>` where the numbers that every
    stage was given are not finite, `checkpoint` also where float32 cannot compute with them; `spec` where the spec file
    replaces code of torch, with which stages compute. evidence: what says so, in words."""

    owner: str
    evidence: tuple[str, ...]


def ownership(
    fault: Fault,
    faults: Sequence[Fault],
    findings: Sequence[Finding],
    observers: Mapping[str, Sequence[str]],
    not_finite: Collection[str] = (),
    beyond_float32: str = "",
    not_compared: str = "",
) -> Ownership:
    """The owner of one fault.

    faults: those of all hops. observers: TFLite stage that compared the place on this input -> the steps at which
    its tapped or preserved copy gave other outputs than the untouched file; a stage that has not compared it is absent.
    not_finite: stages whose own values of the tap are NaN or infinite, the candidate among them.
    beyond_float32: why float32 cannot compute the tap, where the noise floor's limit is the only one broken there.
    not_compared: of a long input, how many positions of the taps before were compared, where the fault's is not one.
    """
    hop = Hop.parse(fault.hop)
    source, candidate = hop.stages
    replacing = [finding.what for finding in findings if finding.owner == SPEC]
    if replacing:
        return Ownership(SPEC, ("stages compute it with code that the spec file has put into torch", *replacing))
    given = _given(hop, findings, not_finite)
    if given is not None:
        return given
    if beyond_float32:
        alone = f"the only limit broken there is the one on the noise floor, in which {candidate} has no part"
        return Ownership(CHECKPOINT, (alone, beyond_float32))
    if hop.floor is Floor.PRICE:
        return Ownership(f"{RECIPE} {split(candidate)[1]}", (f"{candidate} is {source} with the numbers of the file",))
    if hop.floor is Floor.RUNTIME:
        return _of_runtime(hop, fault, faults, findings)
    if hop.on_kernels:
        same = f"{source} runs the same quantised file, and computes something else there"
        return Ownership(kernels_of(candidate), (same,))
    if not runs_file(candidate):
        return _of_model(fault, candidate, findings, not_compared)
    differing = observers.get(candidate, ())
    if differing:
        return Ownership(
            "memory planner",
            (f"{candidate} gives other outputs when its tensors are kept: at {', '.join(differing)}",),
        )
    spoiled = _about_weights(fault, findings, _OF_FILE)
    if spoiled:
        return Ownership("weights", (spoiled.what,))
    return _of_device(fault, candidate, faults, observers)


def _of_runtime(hop: Hop, fault: Fault, faults: Sequence[Fault], findings: Sequence[Finding]) -> Ownership:
    """Of a quantised file: the recipe's where the weight that acts there is wrong by reading it, or both runtimes show
    it (a norm of a file that a person gave); the converter's where the float32 file shows it too; else the kernels'.

    A runtime need not take what no recipe would write: a scale with more digits than it keeps, or infinity.
    """
    recipe = f"{RECIPE} {split(hop.candidate)[1]}"
    wrong = [finding.what for finding in findings if finding.owner == recipe and fault.tap in _made_with(finding.key)]
    if wrong:
        return Ownership(recipe, tuple(wrong))
    held = _about_weights(fault, findings, (*_OF_FILE, FindingCode.CONSTANT_DIFFERS_IN_PART))
    if held:  # the fake-quantised model has one constant for all signatures
        return Ownership(recipe, (f"{hop.candidate} computes there with a constant that is wrong", held.what))
    twin = split(hop.candidate)[0]
    if any(other.tap == fault.tap and Hop.parse(other.hop).candidate == twin for other in faults):
        return Ownership("converter", (f"{twin} runs the float32 flatbuffer, and shows a fault at the same tap",))
    also = [
        other.between.candidate
        for other in faults
        if other.tap == fault.tap and other.between.floor is Floor.RUNTIME and other.hop != hop.name
        and split(other.between.candidate)[1] == split(hop.candidate)[1]
    ]  # fmt: skip
    if also:
        return Ownership(recipe, (f"{hop.candidate} and {also[0]} both differ there, and share the file alone",))
    same = f"{hop.reference} computes with the same numbers of the file, and has something else there"
    return Ownership(kernels_of(hop.candidate), (same,))


def _given(hop: Hop, findings: Sequence[Finding], not_finite: Collection[str]) -> Ownership | None:
    """Whose numbers are that are not finite and were given to the stages: no candidate could do better."""
    hugging_face = [stage for stage in (ORACLE, HF) if stage in not_finite]
    if hugging_face:
        said = [finding.what for finding in findings if finding.owner == CHECKPOINT]
        verb = "gives" if len(hugging_face) == 1 else "give"
        also = f"{' and '.join(hugging_face)} {verb} NaN or infinity there too"
        nothing = "the checkpoint holds none itself, so what Hugging Face makes of its numbers is"
        return Ownership(CHECKPOINT, (also, *(said or [nothing])))
    recipe = f"{RECIPE} {split(hop.reference)[1]}"
    spoiled = [finding.what for finding in findings if finding.owner == recipe]
    # One kernel may make the largest float32 of infinity, and look finite.
    shown = [stage for stage in hop.stages if stage in not_finite]
    if hop.floor in (Floor.KERNELS, Floor.RUNTIME) and shown and spoiled:
        return Ownership(recipe, (f"NaN or infinity from {' and '.join(shown)}, out of a file that holds it", *spoiled))
    return None


_FUSED = (("attn.q", "attn.k", "attn.v"), ("mlp.gate", "mlp.up"))


def _made_with(layer: str) -> tuple[str, ...]:
    """The taps that the weight of a layer may make: one that is fused is called by the first."""
    block, point = split_tap(layer) if layer else (None, "")
    fused = next((points for points in _FUSED if block is not None and points[0] == point), (point,))
    return (layer,) if block is None else tuple(block_tap(block, name) for name in fused)


def kernels_of(stage: str) -> str:
    return f"kernels of {stage}"


def converter_or_kernels_of(stage: str) -> str:
    """The owner of what one runtime alone was compared at."""
    return f"{CONVERTER} or {kernels_of(stage)}"


def is_given(owner: str) -> bool:
    """Whether a fault lies in what the stages were given, so that there is nothing to explain in any of them."""
    return owner.split(" ")[0] in (CHECKPOINT, RECIPE, SPEC)


def _of_model(fault: Fault, candidate: str, findings: Sequence[Finding], not_compared: str) -> Ownership:
    reference = stage_named(fault.between.reference).words
    here = f"what goes into {fault.tap} is {reference}'s own, and what comes out is not"
    if fault.local_excess is None:
        here = f"{fault.tap} is the first tap that differs from {reference}"
    if not_compared and not any(figure in LOCAL_FIGURES for figure in fault.broken):
        here = f"{fault.tap} is the first tap that is seen to differ from {reference}, but {not_compared}"
    stage = stage_named(candidate)
    if not stage.owner:
        return Ownership(candidate, (here,))
    config = next((finding for finding in findings if _acts_at(finding, fault)), None)
    weights = _about_weights(fault, findings, _OF_MODEL)
    if weights and (config is None or config.field not in _SIZES):
        return Ownership("weights", (here, weights.what))
    if config:
        return Ownership("config", (here, config.what))
    return Ownership(stage.owner, (here, "no difference of configs or weights was found that acts there"))


def _of_device(
    fault: Fault, candidate: str, faults: Sequence[Fault], observers: Mapping[str, Sequence[str]]
) -> Ownership:
    also = [
        Hop.parse(other.hop).candidate
        for other in faults
        if other.tap in taps_at(fault.tap) and Hop.parse(other.hop).candidate in set(observers) - {candidate}
    ]
    if also:
        return Ownership(CONVERTER, (f"{candidate} and {also[0]} both differ there, and share the file alone",))
    others = [stage for stage in observers if stage != candidate]
    if others and len(taps_at(fault.tap)) > 1:
        apart = f"{others[0]} agrees there, but runs attention as one kernel where {candidate} runs a graph of the file"
        return Ownership(converter_or_kernels_of(candidate), (apart,))
    if others:
        return Ownership(
            kernels_of(candidate),
            (f"{others[0]} runs the same file, and agrees with {stage_named(fault.between.reference).words} there",),
        )
    return Ownership(converter_or_kernels_of(candidate), (f"no other runtime compared {fault.tap}",))


def taps_at(tap: str) -> tuple[str, ...]:
    """Where a fault of this tap shows: of attention as one kernel, the probabilities show at the output."""
    block, point = split_tap(tap)
    if block is None or point not in _ATTENTION:
        return (tap,)
    return tuple(block_tap(block, name) for name in _ATTENTION)


def _about_weights(fault: Fault, findings: Sequence[Finding], codes: Collection[FindingCode]) -> Finding | None:
    """An error in weights by value of the fault's module, in the flatbuffer or in the re-authored model."""
    block, point = split_tap(fault.tap)
    stage = next((name for name in (*own_stages(), HF) if name in fault.modules), REAUTHORED)
    at = _WEIGHTS_AT.get(stage, {}).get(point)
    modules = (at.format(block) if at else fault.modules.get(stage) or "").split()
    errors = (finding for finding in findings if finding.code in codes and finding.severity == "error")
    return next((finding for finding in errors if any(_is_of(finding, one, block) for one in modules)), None)


def weights_agree(fault: Fault, findings: Sequence[Finding]) -> bool:
    """Whether the weights that act at a tap of the hop's candidate have been found to be the checkpoint's.

    A stage that ended well has audited its weights, and what it did not compare is a finding.
    """
    unknown = any(finding.code in _NOT_ALL_KNOWN for finding in findings)
    codes = _OF_FILE if runs_file(fault.between.candidate) else _OF_MODEL
    return not unknown and _about_weights(fault, findings, codes) is None


def _is_of(finding: Finding, module: str, block: int | None) -> bool:
    """Whether a finding is of a parameter of a module; of several blocks, of the one that the module is in."""
    parameter = finding.parameter
    if block is not None and block in finding.blocks:
        parameter = parameter.replace("{}", str(block))
    return parameter.startswith((f"{module}.", f"{module}/"))


def _acts_at(finding: Finding, fault: Fault) -> bool:
    if finding.kind != "config" or finding.severity != "error":
        return False
    block, point = split_tap(fault.tap)
    names = [_OWN_NAMES.get(name, name) for name in finding.field.split(".")]
    points = [at for name in names for at in _ACTS_AT.get(name, ())]
    return point in points and (not finding.blocks or block is None or block in finding.blocks)
