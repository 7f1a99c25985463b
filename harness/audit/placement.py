"""How the parts of a block are wired: where the norm after attention stands, and what the MLP reads.

In: a small model that runs. Out: a `Placement`. Neither config says this; one run of the real code does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.audit.overheard import Overheard

# Place -> entry of `ModuleNames`, for the Hugging Face model.
PUBLISHED_PLACES = {
    "queries": "attn_query_proj",
    "fused": "attn_fused_qkv_proj",
    "attention_out": "attn_output_proj",
    "mlp_in": "ff_up_proj",
    "norm_after": "post_attn_norm",
    "query_norm": "attn_query_norm",
}


@dataclass(frozen=True)
class Placement:
    """parallel_residual: the MLP reads what attention reads. norm_on_output: the norm named after attention takes
    attention's output (Gemma 2), not the sum with the residual (Llama). overheard: what else the run showed.
    queries: before they are turned, `[batch, heads, time, head_dim]`, where they have a norm.
    windows: of each block, in positions, None for a block without one; None where they were not looked for.
    ignored: fields of the published config that are set and change nothing, see `honoured.py`."""

    parallel_residual: bool = False
    norm_on_output: bool = False
    overheard: Overheard | None = None
    queries: Any = None
    windows: tuple[int | None, ...] | None = None
    ignored: frozenset[str] = frozenset()
    unaudited: Mapping[str, str] = field(default_factory=dict)

    def placed(self, slots: Mapping[str, Any]) -> dict[str, Any]:
        """The norms of a block by where they act; the names of both frameworks say less."""
        placed = dict(slots)
        if not self.norm_on_output and not placed.get("pre_mlp"):
            placed["pre_mlp"], placed["post_attention"] = placed.get("post_attention"), None
        return placed


def unknown_placement(why: str) -> Placement:
    """For a model that could not be watched: what is wired how is not audited."""
    text = " ".join(why.split())[:300]
    return Placement(unaudited=dict.fromkeys(("parallel_residual", "post_attention", "pre_mlp"), text))


def watch(network: Any, places: Mapping[str, str | None], run: Callable[[], Any]) -> Placement:
    """Run the model once and see what its first block's modules read and give."""
    import torch

    from harness.audit.overheard import Overheard

    seen: dict[str, tuple[Any, Any]] = {}
    handles = []
    for place, path in places.items():
        try:
            module = network.get_submodule(path.format(0)) if path else None
        except AttributeError:
            module = None
        if isinstance(module, torch.nn.Module):
            handles.append(module.register_forward_hook(_keeper(seen, place)))
    try:
        with torch.no_grad(), Overheard() as overheard:
            run()
    except Exception as error:
        return unknown_placement(f"its miniature does not run ({type(error).__name__}: {error})")
    finally:
        for handle in handles:
            handle.remove()
    attention_in = seen.get("queries", seen.get("fused"))
    if attention_in is None or "mlp_in" not in seen or "attention_out" not in seen:
        return replace(unknown_placement("its miniature has no modules of these names"), overheard=overheard)
    after = seen.get("norm_after")
    return Placement(
        parallel_residual=torch.equal(seen["mlp_in"][0], attention_in[0]),
        norm_on_output=after is not None and torch.equal(after[0], seen["attention_out"][1]),
        overheard=overheard,
        queries=seen["query_norm"][1] if "query_norm" in seen else None,
    )


def _keeper(seen: dict[str, tuple[Any, Any]], place: str) -> Callable[..., None]:
    def keep(_: Any, given: tuple[Any, ...], made: Any) -> None:
        seen.setdefault(place, (given[0].clone(), made.clone()))

    return keep
