"""Which fields of a published config its class acts on, found out by running the class in small.

In: a model's declaration, whose published config may hold any field. Out: the window of each block, and the names of
fields that change nothing. A config.json is a list of wishes: LlamaForCausalLM has no sliding window whatever
`sliding_window` says, and a fact read off such a field would accuse a re-authored model that is right.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.audit.probes import LENGTH, WINDOW
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.weights.configs import published_config, quiet_transformers
from harness.weights.families import sizes_of
from harness.weights.miniature import shrunk_hf_config

# Field -> (a value that shows in a few tokens, None for the config's own; the value of a model without it).
_PROBED: dict[str, tuple[Any, Any]] = {"alibi": (None, False), "attn_logit_softcapping": (0.01, None)}


def published_windows(model: Model) -> tuple[int | None, ...] | None:
    """The sliding window of each block, in positions, None for a block without one; None for a config that sets none.

    Each attention of a small model is given a few positions, and given them again with another first one: the
    positions at which its output changes are those that see the first. Raises whatever the class raises.
    """
    published = published_config(model)
    window = getattr(published.get_text_config(), "sliding_window", None)
    if not window:
        return None
    small = shrunk_hf_config(model, sizes_of(published.get_text_config()).layers)
    small.sliding_window = WINDOW
    output = route_of(model).names(model).attn_output_proj
    if output is None:
        raise ValueError("no module is named that makes attention's output")
    path = output.rpartition(".")[0]
    with _seeded():
        network = _built(small)
        calls = _attention_calls(network, path, small.num_hidden_layers)
        reaches = [_reach(attention, *call) for attention, call in calls]
    return tuple(None if reach >= LENGTH else int(window) + reach - WINDOW for reach in reaches)


def ignored_settings(small: Any) -> frozenset[str]:
    """The fields that are set, among those that are read off the config, and that change no bit of the logits.

    small: a published config in miniature. Raises whatever the class raises on it.
    """
    ignored = set()
    for name, (strong, without) in _PROBED.items():
        value = getattr(small, name, None)
        if value in (None, False):
            continue
        one, other = copy.deepcopy(small), copy.deepcopy(small)
        setattr(one, name, value if strong is None else strong)
        setattr(other, name, without)
        if not _differ(one, other):
            ignored.add(name)
    return frozenset(ignored)


def _differ(one: Any, other: Any) -> bool:
    import torch

    with _seeded():
        first = _built(one)
        expected = _logits(first)
        try:
            second = _built(other)
            second.load_state_dict(first.state_dict())
            return not torch.equal(expected, _logits(second))
        except Exception:  # a class that needs other weights, or none that runs, has noticed
            return True


@contextmanager
def _seeded() -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_transformers():
        torch.manual_seed(0)
        yield


def _built(config: Any) -> Any:
    """The model in small with random weights: those that a config asks for may be zeros."""
    import transformers

    factory: Any = transformers.AutoModelForCausalLM
    kind = factory._model_mapping[type(config)]
    # Fused attention leaves softcaps out, in classes that have them.
    attention = "eager" if kind._supports_attention_backend else "sdpa"
    network = factory.from_config(config, attn_implementation=attention, trust_remote_code=False).float().eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 2 * parameter.shape[-1] ** -0.5)
        else:
            parameter.uniform_(0.5, 1.5)
    return network


def _logits(network: Any) -> Any:
    import torch

    return network(torch.arange(1, LENGTH + 1).unsqueeze(0), use_cache=False).logits


def _attention_calls(network: Any, path: str, blocks: int) -> list[tuple[Any, Any]]:
    """Each block's attention, with what it is called with: positional and named arguments."""
    modules = [network.get_submodule(path.format(number)) for number in range(blocks)]
    calls: dict[Any, Any] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs: calls.setdefault(module, (args, kwargs)) and None, with_kwargs=True
        )
        for module in modules
    ]
    try:
        _logits(network)
    finally:
        for handle in handles:
            handle.remove()
    return [(module, calls[module]) for module in modules]


def _reach(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many positions see the first one. Raises ValueError where the first does not see itself."""
    values = args[0] if args else kwargs["hidden_states"]
    other = values.clone()
    other[:, 0] += 1

    def given(hidden: Any) -> Any:
        made = attention(hidden, *args[1:], **kwargs) if args else attention(**{**kwargs, "hidden_states": hidden})
        return made[0] if isinstance(made, tuple) else made

    changed: list[bool] = (given(values) != given(other)).any(-1).flatten().tolist()
    if not changed[0]:
        raise ValueError(f"{type(attention).__name__} does not let a position see itself")
    return len(changed) - changed[::-1].index(True)
