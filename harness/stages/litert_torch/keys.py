"""What the re-authored model takes of a checkpoint, key by key.

In: a checkpoint folder and a re-authored model. Out: findings about keys that are lost or lacking, and the tensors that
each parameter is made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.audit.values import read_values
from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.full_config import built_model
from harness.stages.litert_torch.loader import Taken, run_loader, storage
from harness.stages.litert_torch.parameters import parameter_sources
from harness.weights.configs import hf_config, raw_config, without_initial_weights
from harness.weights.files import StoredTensor, shape_text, stored_tensors
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
        taken = run_loader(model, model_config, state)
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
    handed_on = run_loader(model, model_config, state).converted
    return [
        ParameterSource(parameter=name, keys=[key_of[id(value)]], forms_known=False)
        for name, value in handed_on.items()
        if name in own and id(value) in key_of
    ]


def _folder_ties(folder: Path) -> bool:
    config = raw_config(folder)
    if "tie_word_embeddings" in config:
        return bool(config["tie_word_embeddings"])
    return bool(hf_config(folder).tie_word_embeddings)


@dataclass(frozen=True)
class _Accounts:
    """The books of one checkpoint against one model.

    own: the re-authored model's parameters by name, without memory. source: id of a stored tensor -> its key.
    folder: where values can be read, if anywhere. ties: whether the Hugging Face config ties lm_head.
    """

    folder: Path | None
    ties: Callable[[], bool]
    taken: Taken
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
        held = storage(self.own[name])
        others = (other for other in self.own if other != name and storage(self.own[other]) == held)
        return next((other for other in others if other in self.taken.converted), None)

    def _same_values(self, one: str, two: str) -> bool:
        import torch

        if self.folder is None or self.stored[one].shape != self.stored[two].shape:
            return False
        values = [torch.from_numpy(read_values(self.stored[name])) for name in (one, two)]
        return torch.equal(*values)


def _error(code: FindingCode, what: str, key: str = "", parameter: str = "") -> Finding:
    return Finding(kind="weights", code=code, severity="error", what=what, key=key, parameter=parameter)
