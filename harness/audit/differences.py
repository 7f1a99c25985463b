"""Where two structures differ. Pure.

In: the published structure and the re-authored one. Out: findings of kind "config", one for each field and pair of
values, with the blocks concerned, both values and both modules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from harness.audit.structure import Layer, Structure
from harness.names.codes import FindingCode
from harness.names.stages import HF, REAUTHORED
from harness.record.record import Finding
from harness.weights.key_names import number_text

_ABSENT = "none"
# float32 holds seven digits; an epsilon is told from how a norm acts, to four.
_RELATIVE = 2e-6
_RELATIVE_EPS = 1e-3
_SIDES = ("modules", "unaudited", "layers", "rope_until")
# What follows from another field, and is compared only where that one agrees.
_FOLLOWS = {
    "rope.scaling": ("rope.base", "rope.dims"),
    "rope.dims": ("head_dim_differs",),
    "query_scale": ("head_dim_differs",),
}


def differences(published: Structure, reauthored: Structure, own_stage: str = REAUTHORED) -> list[Finding]:
    """Every field in which the two differ, and every one that could not be compared.

    own_stage: the one that runs the re-authored version, by which findings call its modules.
    """
    skipped = {**published.unaudited, **reauthored.unaudited}
    findings = [
        finding(path, (), values, _modules(path, published, reauthored, own_stage))
        for path, values in _unequal(_flat(published), _flat(reauthored), skipped)
    ]
    if len(published.layers) != len(reauthored.layers):
        findings.append(finding("layers", (), (len(published.layers), len(reauthored.layers)), {}))
    until, reach = published.rope_until, reauthored.max_length
    if until is not None and reach is not None and reach > until:
        beyond = (f"other frequencies beyond {until} positions", f"the same up to {reach}")
        findings.append(finding("rope_until", (), beyond, {}))
    grouped: dict[tuple[str, str, str], list[int]] = {}
    shown: dict[tuple[str, str, str], tuple[Any, Any]] = {}
    for number, (one, other) in enumerate(zip(published.layers, reauthored.layers, strict=False)):
        for path, values in _unequal(_flat(one, reauthored), _flat(other, reauthored), skipped):
            key = (path, repr(values[0]), repr(values[1]))
            grouped.setdefault(key, []).append(number)
            shown[key] = values
    findings += [
        finding(key[0], tuple(blocks), shown[key], _modules(key[0], published, reauthored, own_stage))
        for key, blocks in grouped.items()
    ]
    return [*findings, *(unaudited(path, why) for path, why in skipped.items())]


def roundings(exact: Structure, rounded: Structure, dtype: str) -> list[Finding]:
    """What the same model makes of its config otherwise in `dtype` than in float32: a warning for each field.

    No fault of either version: every stage runs in float32, whatever a checkpoint is stored in.
    """
    fields = [(path, values, "") for path, values in _unequal(_flat(exact), _flat(rounded), {})]
    for number, (one, other) in enumerate(zip(exact.layers, rounded.layers, strict=True)):
        fields += [
            (path, values, f" of {block_text((number,))}") for path, values in _unequal(_flat(one), _flat(other), {})
        ]
    seen = {path: (values, where) for path, values, where in reversed(fields)}
    return [
        Finding(
            kind="config",
            code=FindingCode.FIELD_ROUNDED,
            severity="warning",
            what=f"{path}{where}: {_texts(*values)[0]} in float32, in which every stage runs; in {dtype}, which the "
            f"checkpoint's config.json names, transformers rounds it to {_texts(*values)[1]}",
            field=path,
        )
        for path, (values, where) in seen.items()
    ]


def finding(path: str, blocks: tuple[int, ...], values: tuple[Any, Any], modules: Mapping[str, str]) -> Finding:
    """A difference in one field, as a finding. A difference in declared length alone is a warning."""
    where = f" of {block_text(blocks)}" if blocks else ""
    one, other = _texts(*values)
    named = f" ({' / '.join(modules.values())})" if modules else ""
    return Finding(
        kind="config",
        code=FindingCode.CONFIG_DIFFERS,
        severity="warning" if path == "max_length" else "error",
        what=f"{path}{where}: published {one}, re-authored {other}{named}",
        field=path,
        blocks=list(blocks),
        published=one,
        reauthored=other,
        modules=dict(modules),
    )


def unaudited(path: str, why: str) -> Finding:
    """A field that could not be compared: said, so that silence always means agreement."""
    what = f"{path} is not audited: {why}"
    return Finding(kind="config", code=FindingCode.FIELD_NOT_AUDITED, severity="warning", what=what, field=path)


def reason(error: Exception) -> str:
    """An error as the reason of something that was not audited."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def block_text(blocks: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) -> "blocks 0-2, 5"."""
    return f"block{'s' if len(blocks) > 1 else ''} {number_text(list(blocks))}"


def _flat(part: Any, reauthored: Structure | None = None) -> dict[str, object]:
    """Dotted field names to values; a part that is absent stays one value, None."""
    flat: dict[str, object] = {}
    for item in fields(part):
        value = getattr(part, item.name)
        if isinstance(part, Structure) and item.name in _SIDES:
            continue
        if is_dataclass(value):
            flat |= {f"{item.name}.{name}": inner for name, inner in _flat(value).items()}
        flat[item.name] = value
    if isinstance(part, Layer) and reauthored is not None:
        # A window that nothing outgrows is none.
        reach = reauthored.max_length
        if part.window is not None and reach is not None and part.window >= reach:
            flat["window"] = None
    return flat


def _unequal(
    one: Mapping[str, Any], other: Mapping[str, Any], skipped: Mapping[str, str]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    unequal = {
        path
        for path in one.keys() & other.keys()
        if not (is_dataclass(one[path]) and is_dataclass(other[path])) and not _same(path, one[path], other[path])
    }
    if "head_dim" in unequal:
        unequal.add("head_dim_differs")
    for path in one:
        if path not in unequal or path.split(".")[0] in skipped or path in skipped:
            continue
        if not any(leader in unequal for leader in _FOLLOWS.get(path, ())):
            yield path, (one[path], other[path])


def _same(path: str, one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(_same(path, a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=_RELATIVE_EPS if path.endswith("eps") else _RELATIVE)
    return bool(one == other)


def _texts(one: Any, other: Any) -> tuple[str, str]:
    """Both values in words; of two sequences the number that differs most."""
    if isinstance(one, tuple) and isinstance(other, tuple) and one and other and isinstance(one[0], float):
        if len(one) != len(other):
            return f"{len(one)} numbers", f"{len(other)} numbers"
        count = sum(not _same("", a, b) for a, b in zip(one, other, strict=True))
        at = max(range(len(one)), key=lambda i: abs(one[i] - other[i]) / max(abs(one[i]), abs(other[i]), 1e-30))
        return f"{one[at]:.7g} at {at} ({count} of {len(one)} differ)", f"{other[at]:.7g}"
    return _text(one), _text(other)


def _text(value: Any) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, tuple):
        return ", ".join(map(_text, value)) or _ABSENT
    return str(value)


def _modules(path: str, published: Structure, reauthored: Structure, own_stage: str) -> dict[str, str]:
    name = path.split(".")[0]
    hf, own = published.modules.get(name), reauthored.modules.get(name)
    return {HF: hf, own_stage: own} if hf and own else {}
