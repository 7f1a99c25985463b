"""Whether tensor_names call the published model's modules by what they do.

In: a model's declaration. Out: what is wrong with the map, in words. A swapped map misnames both versions alike: taps
carry the wrong module's values, weights go where they do not belong, and every other audit would blame the checkpoint
or the module.

Nothing is known of names: one run of the published model in small shows when each module runs and where its output
goes. Two entries are called swapped only where each module does what the other's name says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any

import torch
from torch.nn import functional

from harness.audit.probes import LENGTH
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.stages.torch.intercept import Intercept, TorchCall
from harness.weights.configs import quiet_transformers
from harness.weights.miniature import shrunk_hf_config

_PROJECTIONS = ("attn_query_proj", "attn_key_proj", "attn_value_proj")
_NORMS = ("pre_attn_norm", "post_attn_norm", "pre_ff_norm", "post_ff_norm", "attn_query_norm", "attn_key_norm")
_GATES = ("ff_gate_proj", "ff_up_proj")
_ACTIVATIONS = (functional.silu, functional.gelu, functional.relu, torch.sigmoid, torch.tanh)


def wrong_names(model: Model) -> list[str]:
    """One text for each module that two entries name, and for each two entries that are swapped; empty for a right map.

    A model that cannot be run in small shows no swap: what it is compared with then fails by itself.
    """
    return _named_twice(model) or _swapped(model)


def _entries(names: Any) -> dict[str, str]:
    return {entry: path for entry, path in vars(names).items() if isinstance(path, str) and path}


def _named_twice(model: Model) -> list[str]:
    if not route_of(model).loads_by_names(model):  # then the map says what is what and loads nothing
        return []
    by_path: dict[str, list[str]] = {}
    for entry, path in _entries(route_of(model).names(model)).items():
        by_path.setdefault(path, []).append(entry)
    return [
        f"{' and '.join(entries)} both name {path}, whose weights are loaded once; each names a module of its own"
        for path, entries in by_path.items()
        if len(entries) > 1
    ]


def _swapped(model: Model) -> list[str]:
    names = _entries(route_of(model).names(model))
    try:
        seen = _watched(model, names.values())
    except Exception:
        return []
    texts = []
    for group in (_NORMS, _PROJECTIONS, _GATES):
        for one, other in combinations([entry for entry in group if entry in names], 2):
            exchanged = {**names, one: names[other], other: names[one]}
            if _contradicted(names, seen, (one, other)) and not _contradicted(exchanged, seen, (one, other)):
                texts.append(
                    f"{one} names {names[one]} and {other} names {names[other]}, and in the published model each does "
                    "what the other's name says: the two are swapped"
                )
    return texts


class _Seen(Intercept):
    """ended: path -> when its module gave its result. given, made: what it took and gave. activated: what activation
    functions took. attention: queries, keys and values of the first attention, `[batch, heads, time, head_dim]`."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[str, int] = {}
        self.given: dict[str, torch.Tensor] = {}
        self.made: dict[str, torch.Tensor] = {}
        self.activated: list[torch.Tensor] = []
        self.attention: tuple[torch.Tensor, ...] = ()

    def called(self, call: TorchCall) -> Any:
        func, args, kwargs = call
        if func in _ACTIVATIONS and args:
            self.activated.append(args[0].clone())
        if func is functional.scaled_dot_product_attention and not self.attention:
            self.attention = tuple(tensor.clone() for tensor in args[:3])
        return func(*args, **kwargs)

    def listen(self, path: str) -> Callable[..., None]:
        def keep(_: Any, given: tuple[Any, ...], made: Any) -> None:
            if path not in self.ended:
                self.ended[path] = len(self.ended)
                self.given[path], self.made[path] = given[0].clone(), made.clone()

        return keep


def _watched(model: Model, paths: Iterable[str]) -> _Seen:
    """One run of the published model's miniature, of one block."""
    import transformers

    small = shrunk_hf_config(model, 1)
    factory: Any = transformers.AutoModelForCausalLM
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(0)
        network = factory.from_config(small, dtype=torch.float32, trust_remote_code=False).eval()
    seen = _Seen()
    for path in paths:
        try:
            module = network.get_submodule(path.format(0))
        except AttributeError:
            continue
        module.register_forward_hook(seen.listen(path))
    with torch.no_grad(), seen:
        network(torch.arange(1, LENGTH + 1).unsqueeze(0), use_cache=False)
    return seen


def _contradicted(names: Mapping[str, str], seen: _Seen, entries: Iterable[str]) -> bool:
    """Whether what was seen says that one of these entries names a module of another role."""
    return any(_role_holds(entry, names, seen) is False for entry in entries)


def _role_holds(entry: str, names: Mapping[str, str], seen: _Seen) -> bool | None:
    """Whether the module that an entry names did what the entry says; None where the run does not tell."""
    path = names[entry]
    if path not in seen.ended:
        return None
    at = {other: seen.ended[place] for other, place in names.items() if place in seen.ended}
    here = at[entry]
    attention_reads = [at[name] for name in (*_PROJECTIONS, "attn_fused_qkv_proj") if name in at]
    mlp_reads = [at[name] for name in _GATES if name in at]
    if entry == "pre_attn_norm":
        return all(here < there for there in attention_reads)
    if entry == "post_attn_norm":
        return here > at.get("attn_output_proj", -1)
    if entry == "pre_ff_norm":
        return all(here < there for there in mlp_reads) and here > at.get("post_attn_norm", -1)
    if entry == "post_ff_norm":
        return here > at.get("ff_down_proj", -1)
    if entry in ("attn_query_norm", "attn_key_norm"):
        projection = names.get("attn_query_proj" if entry == "attn_query_norm" else "attn_key_proj", "")
        return _same(seen.given[path], seen.made.get(projection))
    if entry in _PROJECTIONS:
        return _feeds_attention(entry, names, seen)
    gated = [any(_same(seen.made[names[name]], x) for x in seen.activated) for name in _GATES if name in at]
    return gated == [True, False] if len(gated) == 2 and any(gated) else None


def _feeds_attention(entry: str, names: Mapping[str, str], seen: _Seen) -> bool | None:
    """Whether a projection's output is the part of attention that its entry says.

    Values reach attention as they are; queries and keys do so at position 0, which a rotary embedding leaves alone.
    """
    part = _PROJECTIONS.index(entry)
    if len(seen.attention) <= part or (part < 2 and names.get(("attn_query_norm", "attn_key_norm")[part])):
        return None
    taken = seen.attention[part]
    made = seen.made[names[entry]].reshape(1, taken.shape[2], -1, taken.shape[3]).transpose(1, 2)
    if taken.shape[1] % made.shape[1]:
        return False
    taken = taken[:, :: taken.shape[1] // made.shape[1]]  # a KV head stands there once for each of its query heads
    return bool(torch.equal(taken, made) if part == 2 else torch.equal(taken[:, :, 0], made[:, :, 0]))


def _same(one: torch.Tensor, other: torch.Tensor | None) -> bool | None:
    """Whether two tensors hold the same numbers, in whatever order of axes; None without the other."""
    if other is None:
        return None
    return one.numel() == other.numel() and bool(torch.equal(one.flatten().sort()[0], other.flatten().sort()[0]))
