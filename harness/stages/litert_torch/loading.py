"""What the re-authored model takes of a checkpoint, key by key, and loading the two together.

In: a checkpoint folder and a re-authored model. Out: findings about keys that are lost or lacking, the loaded model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.audit.parameters import parameter_sources
from harness.audit.values import read_values
from harness.errors import UsageError
from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.spec.model import GenerativeModel
from harness.weights.configs import built_model, raw_config, without_initial_weights
from harness.weights.files import StoredTensor, shape_text, stored_tensors, weight_files
from harness.weights.key_names import names_text, number_text
from harness.weights.kinds import COMPUTED
from harness.weights.parameters import ParameterSource
from harness.weights.published_names import Reading

if TYPE_CHECKING:
    import torch


LM_HEAD = "lm_head.weight"
# Weights of which no re-authored model can be made.
_STOPS_LOADING = (FindingCode.KEY_LACKING, FindingCode.LOADER_FAILS, FindingCode.SHAPE_DIFFERS)
_NUMBER = re.compile(r"\.(\d+)\.")


def account_for_keys(
    model: GenerativeModel,
    folder: Path,
    model_config: Any,
    dropped: Collection[str] = (),
    reading: Reading | None = None,
) -> list[Finding]:
    """What the re-authored loader loses or lacks; empty when every key and every parameter has its place.

    folder: a checkpoint's. dropped: keys that transformers leaves out too: no loss of the re-authored model.
    reading: of a folder whose tensors are to be read under other names than it has.

    Reads the files' headers and runs the loader on tensors without memory (torch's meta device), so it costs no
    weights. Only a matrix that two keys claim is read, to see whether they agree.
    """
    if reading is None:
        stored: Mapping[str, StoredTensor] = stored_tensors(folder)
        found = _account(model, model_config, stored, folder, lambda: _folder_ties(folder), frozenset(dropped))
    else:
        ties = bool(reading.config.tie_word_embeddings)
        found = _account(model, model_config, reading.tensors, folder, lambda: ties, frozenset(dropped))
    if not dropped:
        return found
    what = (
        f"{len(dropped)} keys of the checkpoint have no place in the model that transformers builds of its config.json "
        f"and are left out: {names_text(dropped)}; the re-authored model is compared without them"
    )
    return [*found, Finding(kind="weights", code=FindingCode.KEYS_LEFT_OUT, severity="warning", what=what)]


def stops_loading(finding: Finding) -> bool:
    """Whether a finding of `account_for_keys` is about weights that cannot be loaded at all."""
    return finding.code in _STOPS_LOADING


def account_for_published_keys(model: GenerativeModel, network: Any, model_config: Any) -> list[Finding]:
    """The same for a checkpoint that is not here: the keys that transformers would store of its model.

    network: the Hugging Face model, without memory.
    """
    stored: dict[str, StoredTensor] = {}
    seen: set[int] = set()
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:  # a tied matrix is stored once
            seen.add(id(tensor))
            stored[name] = StoredTensor(name, "F32", tuple(tensor.shape), Path())
    ties = bool(getattr(network.config.get_text_config(), "tie_word_embeddings", False))
    return _account(model, model_config, stored, None, lambda: ties)


def _account(
    model: GenerativeModel,
    model_config: Any,
    stored: Mapping[str, StoredTensor],
    folder: Path | None,
    ties: Callable[[], bool],
    dropped: frozenset[str] = frozenset(),
) -> list[Finding]:
    import torch

    with torch.device("meta"), without_initial_weights():
        state = {name: torch.empty(tensor.shape) for name, tensor in stored.items()}
        source = {id(tensor): name for name, tensor in state.items()}
        network = built_model(model, model_config)
        taken = _run_loader(model, model_config, state)
    accounts = _Accounts(folder, ties, taken, network.state_dict(), source, stored, dropped)
    if taken.failure:
        failed = _error(FindingCode.LOADER_FAILS, f"the re-authored loader fails: {taken.failure}")
        return _grouped([*accounts.lacking_keys(), failed])
    return _grouped(
        [
            *accounts.lacking_keys(),
            *accounts.unused_keys(),
            *accounts.homeless_values(),
            *accounts.defaulted_parameters(),
            *accounts.clashes(),
        ]
    )


def _grouped(findings: list[Finding]) -> list[Finding]:
    """Like complaints of several blocks as one that names them: "model.layers.{0-21}.self_attn.k_proj.weight ..."."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((_NUMBER.sub(".{}.", finding.what), finding.severity), []).append(finding)
    return [group[0] if len(group) == 1 else _together(group, what) for (what, _), group in groups.items()]


def _together(group: list[Finding], what: str) -> Finding:
    names = [name for finding in group for name in (finding.key, finding.parameter)]
    blocks = sorted({int(number) for name in names for number in _NUMBER.findall(name)})
    return group[0].model_copy(
        update={
            "what": what.replace("{}", f"{{{number_text(blocks)}}}"),
            "key": _NUMBER.sub(".{}.", group[0].key),
            "parameter": _NUMBER.sub(".{}.", group[0].parameter),
            "blocks": blocks,
        }
    )


def sources_of(model: GenerativeModel, model_config: Any, folder: Path, own: Any) -> list[ParameterSource]:
    """Which tensors of a checkpoint each re-authored parameter is made of, as far as that is known.

    own: names of the model's parameters. For a model with `load_weights` these are the tensors that it hands on as they
    are; what it computes of them has no source.
    """
    stored = stored_tensors(folder)
    if model.load_weights is None:
        return parameter_sources(model.tensor_names, model_config, stored, own)
    import torch

    with torch.device("meta"):
        state = {name: torch.empty(tensor.shape) for name, tensor in stored.items()}
    key_of = {id(tensor): name for name, tensor in state.items()}
    handed_on = _run_loader(model, model_config, state).converted
    return [
        ParameterSource(parameter=name, keys=[key_of[id(value)]], forms_known=False)
        for name, value in handed_on.items()
        if name in own and id(value) in key_of
    ]


def _folder_ties(folder: Path) -> bool:
    config = raw_config(folder)
    if "tie_word_embeddings" in config:
        return bool(config["tie_word_embeddings"])
    from harness.weights.configs import hf_config

    return bool(hf_config(folder).tie_word_embeddings)


@dataclass
class _Taken:
    """What the loader did: `converted` by re-authored name, keys it asked for in vain, keys it left."""

    converted: dict[str, torch.Tensor] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failure: str = ""


class _Receiver:
    """Stands in for the model, so that litert-torch's loader hands over what it would load."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.converted: dict[str, torch.Tensor] = {}

    def load_state_dict(self, converted: dict[str, torch.Tensor], strict: bool = True) -> None:
        self.converted = converted


class _Ledger(dict[str, Any]):
    """A state dict that goes on after a key it lacks, so that one pass finds them all.

    The stand-in is complex: concatenation with real tensors stays complex, which marks what was made from it.
    """

    lacking: list[str]

    def pop(self, key: str, *default: Any) -> Any:
        import torch

        if key in self or default:
            return super().pop(key, *default)
        self.lacking.append(key)
        return torch.empty(0, dtype=torch.complex64)


def _run_loader(model: GenerativeModel, config: Any, state: Mapping[str, torch.Tensor]) -> _Taken:
    from litert_torch.generative.utilities.loader import ModelLoader

    ledger, receiver = _Ledger(state), _Receiver(config)
    ledger.lacking = []
    load = model.load_weights
    loader: Any = ModelLoader("", model.tensor_names, lambda _: ledger)
    failure = ""
    try:
        if load is not None:
            receiver.load_state_dict(load(ledger))
        else:
            loader.load(receiver, strict=False)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    return _Taken(receiver.converted, ledger.lacking, sorted(ledger), failure)


@dataclass(frozen=True)
class _Accounts:
    """The books of one checkpoint against one model.

    own: the re-authored model's parameters by name, without memory. source: id of a stored tensor -> its key.
    folder: where values can be read, if anywhere. ties: whether the Hugging Face config ties lm_head.
    """

    folder: Path | None
    ties: Callable[[], bool]
    taken: _Taken
    own: Mapping[str, torch.Tensor]
    source: Mapping[int, str]
    stored: Mapping[str, StoredTensor]
    dropped: frozenset[str]

    def lacking_keys(self) -> list[Finding]:
        findings = []
        for key in self.taken.lacking:
            hint = "loading it stops with a KeyError"
            if key == LM_HEAD and self.ties():
                hint += "; the config ties lm_head to the embedding, so tensor_names must not name it"
            what = f"the re-authored loader asks for {key}, which the checkpoint lacks: {hint}"
            findings.append(_error(FindingCode.KEY_LACKING, what, key))
        return findings

    def unused_keys(self) -> list[Finding]:
        findings = []
        for key in self.taken.left:
            if key.endswith(COMPUTED) or key in self.dropped:
                continue
            if key == LM_HEAD and self._tied_to(LM_HEAD) is not None:
                findings += self._dropped_head()
                continue
            what = f"{key} of the checkpoint is loaded nowhere: the re-authored model runs without it"
            findings.append(_error(FindingCode.KEY_NOT_LOADED, what, key, key if key in self.own else ""))
        return findings

    def homeless_values(self) -> list[Finding]:
        """Values for a parameter that is not there, or that has another shape."""
        findings = []
        for name, value in self.taken.converted.items():
            key = self.source.get(id(value), "")
            named = f"{key} (to {name})" if key else name
            if name not in self.own:
                what = f"{named} has no place in the re-authored model: its values are dropped"
                findings.append(_error(FindingCode.KEY_WITHOUT_PLACE, what, key, name))
            elif not value.is_complex() and value.shape != self.own[name].shape:
                wanted, given = shape_text(tuple(self.own[name].shape)), shape_text(tuple(value.shape))
                what = f"{named}: the checkpoint has shape {given}, the re-authored model {wanted}: it cannot load"
                findings.append(_error(FindingCode.SHAPE_DIFFERS, what, key, name))
        return findings

    def defaulted_parameters(self) -> list[Finding]:
        says = "of the re-authored model receives no value: it keeps the one it was built with"
        return [
            _error(FindingCode.PARAMETER_NOT_LOADED, f"{name} {says}", parameter=name)
            for name in self.own
            if name not in self.taken.converted and self._tied_to(name) is None
        ]

    def clashes(self) -> list[Finding]:
        """Two keys for one matrix: the later one wins, for both names."""
        findings = []
        for name, value in self.taken.converted.items():
            other = self._tied_to(name) if name == LM_HEAD else None
            if other is None or id(value) not in self.source:
                continue
            first, second = self.source.get(id(self.taken.converted[other]), ""), self.source[id(value)]
            if first and not self._same_values(first, second):
                what = f"{second} overwrites {first}: the re-authored model ties them, they differ"
                findings.append(_error(FindingCode.KEYS_CLASH, what, second, name))
        return findings

    def _dropped_head(self) -> list[Finding]:
        """A tied model leaves the checkpoint's own lm_head.

        transformers ties only where the config says so and the values agree (or one is absent): where they differ it
        keeps them apart, whatever the config says.
        """
        embedding = self._tied_to(LM_HEAD)
        key = self.source.get(id(self.taken.converted[embedding]), "") if embedding else ""
        what = f"{LM_HEAD} of the checkpoint is dropped: the re-authored model ties it to {key or embedding}"
        if not key or not self._same_values(key, LM_HEAD):
            what, severity = f"{what}, which holds other values", "error"
        elif not self.ties():
            what, severity = f"{what}; the values agree, but the config keeps both", "warning"
        else:
            return []
        found = _error(FindingCode.HEAD_DROPPED, what, LM_HEAD, LM_HEAD)
        return [found.model_copy(update={"severity": severity})]

    def _tied_to(self, name: str) -> str | None:
        """Another parameter with the same storage that receives a value. Storages have identity on meta too."""
        if name not in self.own:
            return None
        storage = _storage(self.own[name])
        others = (other for other in self.own if other != name and _storage(self.own[other]) == storage)
        return next((other for other in others if other in self.taken.converted), None)

    def _same_values(self, one: str, two: str) -> bool:
        import torch

        if self.folder is None or self.stored[one].shape != self.stored[two].shape:
            return False
        values = [torch.from_numpy(read_values(self.stored[name])) for name in (one, two)]
        return torch.equal(*values)


def load_reauthored(model: GenerativeModel, checkpoint_folder: Path, model_config: Any, mask_cache_size: int) -> Any:
    """The re-authored `torch.nn.Module` with the checkpoint's weights in float32, in eval mode.

    Equal to litert-torch's own `build_decoder_only_model` bit for bit, at about half its peak of memory: the weights
    stay mapped from the file where they need no change. It is lenient where `account_for_keys` reports.
    Raises UsageError for a key that the loader needs and the checkpoint lacks, and for a shape that does not fit.
    """
    import torch

    taken = _run_loader(model, model_config, _mapped(checkpoint_folder))
    if taken.failure or taken.lacking:
        what = f"lacks {taken.lacking[0]}" if taken.lacking else f"cannot be loaded ({taken.failure})"
        raise UsageError(
            f"{checkpoint_folder} {what}, which {model.name}'s tensor_names ask for; "
            "complete the checkpoint or fix tensor_names in the spec"
        )
    values = {
        name: value.to(torch.float32) if value.is_floating_point() else value for name, value in taken.converted.items()
    }
    network = _assembled(model, model_config, mask_cache_size, values, checkpoint_folder)
    if network is None:
        network = built_model(model, model_config, mask_cache_size)
        _check_shapes(checkpoint_folder, network, values)
        network.load_state_dict(values, strict=False)
    return network.eval()


def _assembled(
    model: GenerativeModel, config: Any, mask_cache_size: int, values: dict[str, torch.Tensor], folder: Path
) -> Any | None:
    """The model around the given tensors, without a second copy of them; None where that cannot be done faithfully."""
    import torch

    with torch.device("meta"), without_initial_weights():
        network = built_model(model, config)
    ties = _ties(network)
    # One matrix with two sources, or parameters that keep what they were built with: only a real model has that.
    if any(name in values and other in values for name, other in ties.items()) or not hasattr(
        network, "build_mask_cache"
    ):
        return None
    _check_shapes(folder, network, values)
    network.load_state_dict(values, strict=False, assign=True)
    for name, other in ties.items():
        if name in values or other in values:
            given, taking = (name, other) if name in values else (other, name)
            owner, _, attribute = taking.rpartition(".")
            # Two Parameters over one storage, as litert-torch's own builder leaves them.
            data = network.get_parameter(given).data
            setattr(network.get_submodule(owner), attribute, torch.nn.Parameter(data))
    if any(_meta_tensors(network)):
        return None
    network.build_mask_cache(mask_cache_size)
    return network


def _ties(network: Any) -> dict[str, str]:
    """Parameter -> the earlier one whose storage it shares."""
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        other = first.setdefault(_storage(parameter), name)
        if other != name:
            ties[name] = other
    return ties


def _meta_tensors(network: Any) -> list[str]:
    """Tensors still without memory: parameters, buffers and plain attributes."""
    import torch

    found = []
    for path, module in network.named_modules():
        held = {**module._parameters, **module._buffers, **vars(module)}
        found += [f"{path}.{name}" for name, value in held.items() if isinstance(value, torch.Tensor) and value.is_meta]
    return found


def _check_shapes(folder: Path, network: Any, values: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in network.state_dict().items():
        if name in values and values[name].shape != parameter.shape:
            given, wanted = shape_text(tuple(values[name].shape)), shape_text(tuple(parameter.shape))
            raise UsageError(
                f"{folder}: {name} has shape {given} in the checkpoint and {wanted} in the re-authored model; "
                "use the weights of this model, or fix the config in its spec"
            )


def _mapped(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint, mapped from its files rather than read."""
    from safetensors import safe_open

    tensors: dict[str, Any] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict: it cannot be iterated
                tensors[name] = opened.get_tensor(name)
    return tensors


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _error(code: FindingCode, what: str, key: str = "", parameter: str = "") -> Finding:
    return Finding(kind="weights", code=code, severity="error", what=what, key=key, parameter=parameter)
