"""A folder as a model: the declaration that is written for it, and where a published model keeps what is compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import UsageError
from harness.names.recipes import Recipe
from harness.pipeline.options import Options, check
from harness.spec.find import find_spec, own_stage
from harness.stages.litert_torch.export_hf.naming import fuses_gate, names_of
from harness.weights.folder_spec import declared_folder


class Network:
    """Modules by path, as a `PreTrainedModel` has them."""

    def __init__(self, *paths: str, kind: str = "some") -> None:
        self.modules = {path: object() for path in paths}
        self.config = SimpleNamespace(model_type=kind)

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        yield "", self
        yield from self.modules.items()

    def get_input_embeddings(self) -> Any:
        return self.modules.get("model.embed_tokens")

    def get_output_embeddings(self) -> Any:
        return self.modules.get("lm_head")


ENDS = ("model.embed_tokens", "model.norm", "lm_head", "model.layers")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm")
BLOCK = (*(f"self_attn.{name}" for name in ATTENTION), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
         "input_layernorm", "post_attention_layernorm")  # fmt: skip


def blocks(*inside: str, count: int = 2) -> list[str]:
    return [f"model.layers.{number}.{path}" for number in range(count) for path in inside]


def test_names_are_read_off_the_modules_of_a_block_and_of_what_stands_around_them() -> None:
    names = names_of(Network(*ENDS, *blocks(*BLOCK)), "mine")
    assert names.attn_query_proj == "model.layers.{}.self_attn.q_proj"
    assert names.attn_query_norm == "model.layers.{}.self_attn.q_norm"
    assert names.attn_key_norm is None
    assert names.post_attn_norm == "model.layers.{}.post_attention_layernorm"
    assert (names.embedding, names.final_norm, names.lm_head) == ("model.embed_tokens", "model.norm", "lm_head")
    assert not fuses_gate(names)


def test_a_fused_projection_is_one_name_and_a_fused_gate_is_known() -> None:
    inside = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj", "input_layernorm")
    names = names_of(Network(*ENDS, *blocks(*inside)), "mine")
    assert names.attn_fused_qkv_proj == "model.layers.{}.self_attn.qkv_proj"
    assert names.attn_query_proj is None
    assert fuses_gate(names)


@pytest.mark.parametrize("lost", ["self_attn.o_proj", "self_attn.q_proj", "mlp.down_proj", "input_layernorm"])
def test_blocks_that_nothing_is_known_of_are_refused_with_the_remedy(lost: str) -> None:
    inside = [path for path in BLOCK if path != lost]
    with pytest.raises(UsageError, match=r"no block of a 'newer' model .* declare an ExportHFModel with `names`"):
        names_of(Network(*ENDS, *blocks(*inside), kind="newer"), "mine")


# --- a folder --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_PARITY_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "My Model 1.5"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return made


def test_a_folder_is_a_model_that_is_called_as_it_is(folder: Path) -> None:
    (model,), checkpoint = declared_folder([str(folder)], "export-hf", None, miniature=False)
    ref = find_spec(model)
    assert (ref.name, checkpoint, own_stage(ref)) == ("My_Model_1.5", str(folder), "hf")
    assert declared_folder([str(folder)], "export-hf", None, miniature=True) == ([model], None)


def test_what_a_recipe_costs_an_exported_model_is_refused_and_not_left_out(folder: Path) -> None:
    (model,), checkpoint = declared_folder([str(folder)], "export-hf", None, miniature=False)
    recipe = Recipe("dynamic_wi8_afp32")
    with pytest.raises(UsageError, match="is not judged yet"):
        check(Options(model=model, checkpoint=checkpoint, quantize=(recipe,)))


@pytest.mark.parametrize(
    ("models", "route", "checkpoint", "said"),
    [
        (["FOLDER"], "keras", None, "the routes of a folder are export-hf"),
        (["FOLDER", "smollm2"], "export-hf", None, "takes one folder"),
        (["FOLDER"], "export-hf", "other", "leave --checkpoint out"),
        (["nowhere"], "export-hf", None, "there is no folder .?nowhere"),
        (["EMPTY"], "export-hf", None, "has no config.json"),
    ],
)
def test_what_is_no_folder_of_a_route_is_refused_in_one_line(
    folder: Path, models: list[str], route: str, checkpoint: str | None, said: str
) -> None:
    empty = folder.parent / "empty"
    empty.mkdir()
    given = [{"FOLDER": str(folder), "EMPTY": str(empty)}.get(name, name) for name in models]
    with pytest.raises(UsageError, match=said) as raised:
        declared_folder(given, route, checkpoint, miniature=False)
    assert "\n" not in str(raised.value)
