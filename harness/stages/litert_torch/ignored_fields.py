"""Fields of the re-authored config that its class never looks at.

In: a model's class and its config in miniature. Out: findings of kind "config".

Nothing is listed here: a small model is run with a field as it is declared and with the field as it would be were it
never set. If not one bit of the logits differs, the class ignores the field.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from harness.audit.differences import unaudited
from harness.names.codes import FindingCode
from harness.names.stages import REAUTHORED
from harness.record.record import Finding
from harness.stages.litert_torch.tiny import Tiny, probe_config

# What a run in PyTorch cannot react to, or need not: sizes, export switches, layouts that the loader follows too
# (the audit of values checks those), and sizes of other parts.
_NOT_PROBED = frozenset(
    {
        "enable_hlfb", "enable_kv_cache", "kvcache_update_strategy", "kv_cache_max_len", "max_seq_len",
        "causal_mask_value", "qkv_transpose_before_split", "qkv_fused_interleaved", "group_num",
        "dim_in", "dim_out", "config",
    }
)  # fmt: skip
# Set in the config of a decoder, and yet of no part of it that this audit compares.
_NOT_COMPARED = frozenset(
    {
        "value_norm_config", "relative_attention", "relative_attention_num_buckets", "relative_attention_max_distance",
        "image_embedding", "num_mm_tokens_per_image", "dense_intermediate_size", "embedding_use_bias",
    }
)  # fmt: skip
# The whole head is rotated, and embeddings stay as they are.
_SAME_AS_NONE = {"rotary_percentage": 1.0, "embedding_scale": 1.0}


@dataclass(frozen=True)
class _SetField:
    """A field that is set: where it stands in the config, and what it would be were it never set."""

    path: str
    name: str
    neutral: Any


def ignored_fields(tiny: Tiny, config: Any, full: Any) -> list[Finding]:
    """Findings about fields that are set and change nothing (errors), and fields nobody compares (warnings).

    config: the re-authored config in miniature. full: the same at full size, whose values are shown.
    Raises whatever the class raises on its own config.
    """
    import torch

    small = probe_config(config)
    baseline = tiny.run(tiny.build(small), small)
    findings: list[Finding] = []
    for setting, values in _settings(small):
        if any(found.field and setting.path.startswith(f"{found.field}.") for found in findings):
            continue  # of a part that is ignored as a whole
        if setting.name in _NOT_COMPARED:
            findings.append(unaudited(setting.path, f"set to {_shown(setting, full)} in the re-authored config"))
        for alternative in _alternatives(setting, values):
            changed = probe_config(config)
            for owner, value in zip(_owners(changed, setting), alternative, strict=True):
                setattr(owner, setting.name, copy.deepcopy(value))
            try:
                same = torch.equal(baseline, tiny.run(tiny.build(changed), changed))
            except Exception:  # a model that no longer runs has noticed
                same = False
            if same:
                findings.append(_finding(tiny.model_class, setting, _shown(setting, full)))
                break
    return findings


def _alternatives(setting: _SetField, values: list[Any]) -> Iterator[list[Any]]:
    """What to set in place of the values: never set at all; and where blocks differ, all as the first."""
    if any(not _idle(setting, value) for value in values):
        yield [setting.neutral] * len(values)
    if any(_differ(value, values[0]) for value in values):
        yield [values[0]] * len(values)


def _settings(config: Any) -> Iterator[tuple[_SetField, list[Any]]]:
    """Every field that is set to something, with its value in each block (one value for the whole model)."""
    for path, name, default in _leaves(config, ""):
        setting = _SetField(path, name, default)
        values = [getattr(owner, name) for owner in _owners(config, setting)]
        if any(not _idle(setting, value) for value in values):
            yield setting, values


def _leaves(part: Any, prefix: str) -> Iterator[tuple[str, str, Any]]:
    for item in fields(part):
        if item.name in _NOT_PROBED or (item.name == "type" and hasattr(part, "epsilon")):
            continue
        value = getattr(part, item.name)
        path = f"{prefix}{item.name}"
        if item.name == "block_configs":
            first = value[0] if isinstance(value, (list, tuple)) else value
            yield from _leaves(first, "block_configs.")
        elif is_dataclass(value) and item.default_factory is not MISSING:
            yield path, item.name, item.default_factory()  # the norm itself, then what it is made of
            if not _absent(value):
                yield from _leaves(value, f"{path}.")
        elif is_dataclass(value):
            yield from _leaves(value, f"{path}.")
        elif item.default is not MISSING:
            yield path, item.name, item.default


def _owners(config: Any, setting: _SetField) -> list[Any]:
    """The objects that hold a field, one a block; blocks may share one."""
    parts = setting.path.split(".")[:-1]
    roots = [config]
    if parts and parts[0] == "block_configs":
        blocks = config.block_configs
        roots = list(blocks)[: config.num_layers] if isinstance(blocks, (list, tuple)) else [blocks]
        parts = parts[1:]
    for part in parts:
        roots = [getattr(owner, part) for owner in roots]
    return roots


def _idle(setting: _SetField, value: Any) -> bool:
    """Whether a value is as good as none, because a class that never looks at the field does the same."""
    if getattr(value, "name", "") == "GLOBAL" or _SAME_AS_NONE.get(setting.name) == value:
        return True
    if isinstance(value, (list, tuple)):
        return all(_idle(setting, item) for item in value)
    return not _differ(value, setting.neutral)


def _differ(one: Any, other: Any) -> bool:
    return not (_absent(one) and _absent(other)) and bool(one != other)


def _absent(value: Any) -> bool:
    """A norm that is not there, whatever else its config says."""
    return value is None or getattr(getattr(value, "type", None), "name", "") == "NONE"


def _shown(setting: _SetField, full: Any) -> str:
    values = [getattr(owner, setting.name) for owner in _owners(full, setting)]
    return _text(next((value for value in values if not _idle(setting, value)), values[0]))


def _finding(model_class: Any, setting: _SetField, shown: str) -> Finding:
    what = (
        f"{setting.path} is set to {shown} and {model_class.__name__} ignores it: the model runs as if it were not set"
    )
    return Finding(
        kind="config",
        code=FindingCode.FIELD_IGNORED,
        severity="error",
        what=what,
        field=setting.path,
        published="",
        reauthored=shown,
        modules={REAUTHORED: model_class.__name__},
    )


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(dict.fromkeys(_text(item) for item in value))
    if hasattr(value, "epsilon") and hasattr(value, "type"):
        return f"{value.type.name} with epsilon {value.epsilon:g}"
    return str(getattr(value, "name", None) or getattr(value, "__qualname__", None) or value)
