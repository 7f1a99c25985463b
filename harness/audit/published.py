"""The structure of the published model, from its Hugging Face config.

In: a config of any family that transformers can build, and the tensor names that say which module is which. Out: a
`Structure`.

What transformers decides in code and not in the config (Gemma's 1 + weight, Qwen's biases, the scale of embeddings)
is read off its own modules. They are built on torch's meta device, which takes no memory and no weights, and in
float32 as the stages run, whatever dtype a checkpoint's config.json names.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.align.modules import ModuleNames
from harness.audit.behaviour import Norms, describe_activation, describe_rope
from harness.audit.overheard import turns_by
from harness.audit.placement import PUBLISHED_PLACES, Placement
from harness.audit.structure import ALIBI_POSITIONS, Layer, Norm, Rope, Structure
from harness.errors import UsageError
from harness.weights.config_values import unknown_word
from harness.weights.configs import quiet_transformers, without_initial_weights
from harness.weights.families import learns_positions

# Slot of the structure -> entry of the tensor names, for the norms of a block.
NORM_SLOTS = {
    "pre_attention": "pre_attn_norm",
    "post_attention": "post_attn_norm",
    "pre_mlp": "pre_ff_norm",
    "post_mlp": "post_ff_norm",
    "query_norm": "attn_query_norm",
    "key_norm": "attn_key_norm",
}
_ACTIVATIONS = ("act_fn", "activation_fn", "activation", "act")
RUN_DTYPE = "float32"  # of the stage `hf`
_VOCABULARY = 16  # of the model without blocks that tells the scale of embeddings


def build_published(config: Any, dtype: str = RUN_DTYPE) -> Any:
    """The model that transformers builds of a config, without memory for weights."""
    import torch

    with quiet_transformers(), torch.device("meta"), without_initial_weights():
        return _causal_lm(config, dtype)


def _causal_lm(config: Any, dtype: str) -> Any:
    import torch
    import transformers

    factory: Any = transformers.AutoModelForCausalLM
    try:
        return factory.from_config(copy.deepcopy(config), dtype=getattr(torch, dtype), trust_remote_code=False)
    except Exception as error:
        kind = getattr(config, "model_type", type(config).__name__)
        unknown = unknown_word(config.to_dict(), error)
        if unknown:
            raise UsageError(f"the config of this '{kind}' model cannot be built: {unknown}; correct it") from error
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"transformers builds no causal language model of a '{kind}' config ({reason}); "
            "give the config of an architecture it knows"
        ) from error


def published_structure(
    config: Any, names: ModuleNames, placement: Placement, network: Any, dtype: str = RUN_DTYPE
) -> Structure:
    """Read a whole model.

    placement: how the blocks of its miniature are wired and what they act on, see `placement.py`.
    network: from `build_published`.
    dtype: that the model is built in, e.g. "bfloat16": what its code makes of its config is rounded to it.
    """
    import torch

    reader = _Reader(config, names, placement, network, dtype)
    with torch.no_grad(), quiet_transformers():
        return reader.read()


@contextmanager
def _made_in(dtype: str) -> Iterator[None]:
    """Modules that are built within it round what they compute as transformers' do in this dtype."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Reader:
    def __init__(self, config: Any, names: ModuleNames, placement: Placement, network: Any, dtype: str) -> None:
        self.config, self.names, self.placement, self.network = config, names, placement, network
        self.dtype = dtype
        self.text = config.get_text_config()
        self.norms = Norms()
        self.activations: dict[type, str] = {}
        self.unaudited: dict[str, str] = dict(placement.unaudited)

    def read(self) -> Structure:
        count = sum(1 for _ in self._blocks())
        ropes = self._ropes()
        alibi = self._alibi()
        layers = tuple(self._layer(i, None if alibi else ropes(i), alibi) for i in range(count))
        scale, softcap = self._ends()
        embedding, head = _ends_of(self.network, self.names)
        return Structure(
            vocabulary=int(embedding.weight.shape[0]),
            hidden_size=int(embedding.weight.shape[1]),
            max_length=_first(self.text, "max_position_embeddings", "max_context_length", "n_positions"),
            embedding_scale=scale,
            tied_embeddings=head.weight is embedding.weight,
            lm_head_bias=getattr(head, "bias", None) is not None,
            final_softcap=softcap,
            final_norm=self._norm(self.names.final_norm, "final_norm"),
            rope_until=_rope_until(self.text),
            layers=layers,
            modules=_module_names(self.names, self.placement),
            unaudited=self.unaudited,
        )

    def _blocks(self) -> Any:
        number = 0
        while self._find(self.names.attn_output_proj, number) is not None:
            yield number
            number += 1

    def _find(self, path: str | None, block: int = 0) -> Any:
        if not path:
            return None
        try:
            return self.network.get_submodule(path.format(block))
        except AttributeError:
            return None

    def _layer(self, number: int, rope: Rope | None, alibi: tuple[float, ...] | None) -> Layer:
        names = self.names
        attention = self._find(_parent(names.attn_output_proj), number)
        output = self._find(names.attn_output_proj, number)
        down, up = self._find(names.ff_down_proj, number), self._find(names.ff_up_proj, number)
        gate = self._find(names.ff_gate_proj, number)
        projections = [
            found
            for path in (names.attn_fused_qkv_proj, names.attn_query_proj, names.attn_key_proj, names.attn_value_proj)
            if (found := self._find(path, number)) is not None
        ]
        for field, module in (("heads", projections), ("intermediate_size", down), ("gated", up)):
            if not module:
                self.unaudited[field] = "tensor_names name no such module of the published model"
        head_dim = int(_first(attention, "head_dim") or self.text.hidden_size // self.text.num_attention_heads)
        heads = _columns(output) // head_dim
        width = sum(_rows(projection) for projection in projections)
        mlp = self._find(_parent(names.ff_down_proj), number)
        inner = _columns(down) if down is not None else 0
        slots = {slot: self._norm(getattr(names, entry), slot, number) for slot, entry in NORM_SLOTS.items()}
        return Layer(
            heads=heads,
            kv_heads=(width // head_dim - heads) // 2,
            head_dim=head_dim,
            query_scale=self._query_scale(attention),
            softcap=self._cap(attention),
            window=self._window(attention, number),
            rope=rope,
            alibi=alibi,
            qkv_bias=any(projection.bias is not None for projection in projections),
            output_bias=output.bias is not None,
            activation=self._activation(mlp),
            gated=gate is not None or (up is not None and _rows(up) == 2 * inner),
            intermediate_size=inner,
            mlp_bias=any(part is not None and part.bias is not None for part in (gate, up, down)),
            parallel_residual=self.placement.parallel_residual,
            unmapped_norms=self._unmapped(number),
            **self.placement.placed(slots),
        )

    def _norm(self, path: str | None, field: str, block: int = 0) -> Norm | None:
        module = self._find(path, block)
        if module is None:
            return None
        try:
            return self.norms.describe(module)
        except Exception as error:
            self.unaudited[field] = f"{path}: {error}"
            return None

    def _unmapped(self, number: int) -> tuple[str, ...]:
        """Norms of a block that the re-authored loader never asks for."""
        layer = _parent(_parent(self.names.attn_output_proj))
        known = {getattr(self.names, entry) for entry in NORM_SLOTS.values()}
        found = self._find(layer, number)
        paths = [f"{layer}.{name}" for name, module in found.named_modules() if "Norm" in type(module).__name__]
        return tuple(path for path in paths if path not in known)

    def _query_scale(self, attention: Any) -> float:
        scale = _first(attention, "scaling", "inv_norm_factor")
        heard = self.placement.overheard
        if scale is None and heard is not None and heard.queries is not None and heard.scale is not None:
            # The miniature's heads may be narrower than those of the model.
            width = _first(attention, "head_dim")
            scale = heard.scale if heard.queries.shape[-1] == width else None
        if scale is None:
            self.unaudited["query_scale"] = f"{type(attention).__name__} does not say how it scales its queries"
        return float(scale or 0)

    def _cap(self, attention: Any) -> float | None:
        if "attn_logit_softcapping" in self.placement.ignored:
            return None
        cap = _first(attention, "attn_logit_softcapping")
        return None if cap is None else float(cap)

    def _window(self, attention: Any, number: int) -> int | None:
        """What the small model showed. The config alone says what a model was asked for, not what its class does."""
        if self.placement.windows is not None:
            return self.placement.windows[number]
        window = getattr(attention, "sliding_window", None)
        return int(window) if window else None

    def _activation(self, mlp: Any) -> str:
        function, heard = _first(mlp, *_ACTIVATIONS), self.placement.overheard
        if function is None and heard is not None and len(heard.activations) == 1:
            return heard.activations[0]
        kind = type(function)
        if kind not in self.activations:
            self.activations[kind] = describe_activation(function) if callable(function) else ""
        name = self.activations[kind]
        if not name:
            self.unaudited["activation"] = f"{type(mlp).__name__} has no activation that is known here"
        return name

    def _ropes(self) -> Callable[[int], Rope | None]:
        """The rotary embedding of each block, from the real module built again with memory."""
        if learns_positions(self.text):
            return lambda number: None
        modules = [m for m in self.network.modules() if "RotaryEmbedding" in type(m).__name__]
        if not modules:
            return self._overheard_rope()
        with _made_in(self.dtype):
            rotary = type(modules[0])(config=self.text)
        kinds = getattr(self.text, "layer_types", None)

        def rope(number: int) -> Rope | None:
            kind = f"{kinds[number]}_" if kinds and hasattr(rotary, f"{kinds[number]}_inv_freq") else ""
            base = _rope_base(self.text, kind.removesuffix("_"))
            if base is None:
                self.unaudited["rope"] = "the published config names no rope_theta"
                return None
            frequencies = getattr(rotary, f"{kind}inv_freq").tolist()
            return describe_rope(frequencies, float(getattr(rotary, f"{kind}attention_scaling", 1.0)), base)

        return rope

    def _overheard_rope(self) -> Callable[[int], Rope | None]:
        """Rotary frequencies of a model that makes them in a function: those of its base, if its queries turn so."""
        heard, before, base = self.placement.overheard, self.placement.queries, _rope_base(self.text, "")
        if heard is not None and heard.queries is not None and before is not None and base is not None:
            dims = before.shape[-1]
            plain = [base ** (-2 * i / dims) for i in range(dims // 2)]
            if turns_by(before, heard.queries, base):
                return lambda number: describe_rope(plain, 1.0, base)
        self.unaudited["rope"] = "the published model has no module that makes rotary frequencies"
        return lambda number: None

    def _alibi(self) -> tuple[float, ...] | None:
        import torch

        if not getattr(self.text, "alibi", False) or "alibi" in self.placement.ignored:
            return None
        make = getattr(sys.modules[type(self.network).__module__], "build_alibi_tensor", None)
        if make is None:
            self.unaudited["alibi"] = f"{type(self.network).__name__} has no build_alibi_tensor"
            return (0.0,)
        heads, length = int(self.text.num_attention_heads), max(ALIBI_POSITIONS) + 1
        with _made_in(self.dtype):
            bias = make(torch.ones(1, length, dtype=torch.long), heads, getattr(torch, self.dtype))
        bias = bias.reshape(heads, length).float()
        return tuple(float(x) for position in ALIBI_POSITIONS for x in bias[:, position])

    def _ends(self) -> tuple[float, float | None]:
        """Scale of the embeddings and softcap of the logits, from the model without its blocks, run on the CPU."""
        import torch

        small = copy.deepcopy(self.config)
        text = small.get_text_config()
        text.vocab_size, text.pad_token_id = _VOCABULARY, None
        setattr(text, "num_transformer_layers" if hasattr(text, "num_transformer_layers") else "num_hidden_layers", 0)
        if getattr(text, "layer_types", None):
            text.layer_types = []
        try:
            network = _causal_lm(small, self.dtype).float().eval()
            seen: list[Any] = []
            norm = network.get_submodule(self.names.final_norm)
            norm.register_forward_hook(lambda _, given, made: seen.extend((given[0], made)))
            embedding, head = _ends_of(network, self.names)
            for table in (m for m in network.modules() if isinstance(m, torch.nn.Embedding) and m is not embedding):
                table.weight.zero_()  # of positions, say, which are added
            row = torch.linspace(0.5, 1.5, embedding.weight.shape[1])
            embedding.weight.copy_(row.expand_as(embedding.weight))
            if head is not embedding:  # logits so large that a softcap shows
                head.weight = torch.nn.Parameter(torch.full_like(embedding.weight, 1e4 / embedding.weight.shape[1]))
            else:
                norm.weight.mul_(1e4)
            logits = network(torch.tensor([[1, 2]]), use_cache=False).logits
            raw = torch.nn.functional.linear(seen[1], head.weight, getattr(head, "bias", None))
        except Exception as error:
            for field in ("embedding_scale", "final_softcap"):
                self.unaudited[field] = (
                    f"the published model does not run without blocks ({' '.join(str(error).split())})"
                )
            return 1.0, None
        scale = float((seen[0][0, 0] / row).median())
        return scale, self._softcap(logits, raw)

    def _softcap(self, logits: Any, raw: Any) -> float | None:
        import torch

        if torch.equal(logits, raw):
            return None
        cap = float(f"{float(logits.abs().max()):.6g}")
        if not torch.allclose(logits, cap * torch.tanh(raw / cap), rtol=1e-4):
            self.unaudited["final_softcap"] = "the published model changes its logits in a way unknown here"
        return cap


def _ends_of(network: Any, names: ModuleNames) -> tuple[Any, Any]:
    """The embedding and what makes the logits: the embedding again in a model that has no head of its own."""
    embedding = network.get_submodule(names.embedding)
    try:
        return embedding, network.get_output_embeddings() or embedding
    except NotImplementedError:
        return embedding, embedding


def _rope_base(config: Any, kind: str) -> float | None:
    parameters = getattr(config, "rope_parameters", None) or {}
    base = parameters.get(kind, parameters).get("rope_theta")
    base = base if base is not None else _first(config, "rope_theta", "rope_freq_constant")
    return None if base is None else float(base)


def _rope_until(config: Any) -> int | None:
    """These kinds of scaling take other frequencies for sequences longer than the model was first trained on."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type") not in ("longrope", "dynamic"):
        return None
    until = parameters.get("original_max_position_embeddings") or _first(
        config, "original_max_position_embeddings", "max_position_embeddings"
    )
    return None if until is None else int(until)


def _module_names(names: ModuleNames, placement: Placement) -> Mapping[str, Any]:
    attention, mlp = _parent(names.attn_output_proj), _parent(names.ff_down_proj)
    found: dict[str, Any] = dict.fromkeys(
        ("heads", "kv_heads", "head_dim", "query_scale", "softcap", "window", "rope", "alibi", "qkv_bias"), attention
    )
    found |= dict.fromkeys(("activation", "gated", "intermediate_size", "mlp_bias"), mlp)
    found |= {"output_bias": names.attn_output_proj, "final_norm": names.final_norm}
    found |= {"embedding_scale": names.embedding, "parallel_residual": _parent(attention)}
    return found | placement.placed({slot: getattr(names, entry) for slot, entry in NORM_SLOTS.items()})


def _parent(path: str | None) -> str:
    return (path or "").rpartition(".")[0]


def _first(owner: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(owner, name, None)) is not None), None)


def _rows(linear: Any) -> int:
    return int(linear.weight.shape[1 if _is_turned(linear) else 0])


def _columns(linear: Any) -> int:
    return int(linear.weight.shape[0 if _is_turned(linear) else 1])


def _is_turned(linear: Any) -> bool:
    """Whether a linear layer keeps its weight `[in, out]`, as GPT-2's do."""
    return type(linear).__name__ == "Conv1D"


def hf_places(names: ModuleNames) -> dict[str, str | None]:
    """The modules whose inputs and outputs tell how a block is wired."""
    return {place: getattr(names, entry) for place, entry in PUBLISHED_PLACES.items()}
