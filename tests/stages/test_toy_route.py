"""A new route is a folder of its own: its declarations, derived of `Model`, name it, and the engine asks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_route import ToyModel
from toy_stage import FAULTY_TAP, toy
from watching import Watcher

import harness
from harness.audit.job import audit_models
from harness.audit.report import AuditRequest
from harness.errors import UsageError
from harness.jobs.reporter import Silent
from harness.names import routes, stages
from harness.pipeline.run import Options, run
from harness.spec.find import find_spec
from harness.spec.imports import import_frameworks
from harness.spec.load import load_spec
from harness.spec.model import Model
from harness.spec.route import route_of

pytestmark = pytest.mark.slow

SPEC = """
from transformers import LlamaConfig

from harness.align.modules import ModuleNames
from toy_route import ToyModel

LAYER = "model.layers.{}."
TOY = ToyModel(
    name="toy",
    hf_id="me/toy",
    names=ModuleNames(
        embedding="model.embed_tokens", final_norm="model.norm", lm_head="lm_head",
        pre_attn_norm=LAYER + "input_layernorm", post_attn_norm=LAYER + "post_attention_layernorm",
        attn_query_proj=LAYER + "self_attn.q_proj", attn_key_proj=LAYER + "self_attn.k_proj",
        attn_value_proj=LAYER + "self_attn.v_proj", attn_output_proj=LAYER + "self_attn.o_proj",
        ff_gate_proj=LAYER + "mlp.gate_proj", ff_up_proj=LAYER + "mlp.up_proj", ff_down_proj=LAYER + "mlp.down_proj",
    ),
    published=lambda: LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=False,
    ),
    prefill=(8,),
    kv_cache_len=48,
)
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "toy_spec.py"
    file.write_text(SPEC)
    return file


@pytest.fixture
def known() -> Iterator[None]:
    routes.register(ToyModel.route)
    try:
        yield
    finally:
        routes.unregister(ToyModel.route)


def test_a_declaration_of_a_known_route_is_found_by_reading_alone(spec: Path, known: None) -> None:
    ref = find_spec(str(spec))
    assert (ref.name, ref.variable, ref.has_run) == ("toy", "TOY", False)
    spec.write_text(SPEC.replace("names=", "nams="))
    with pytest.raises(UsageError, match=r"TOY lacks names; a ToyModel needs name, hf_id, names, published"):
        find_spec(str(spec))
    spec.write_text(SPEC.replace("prefill=", "tensor_names=None, prefill="))
    with pytest.raises(UsageError, match="has no field 'tensor_names'"):
        find_spec(str(spec))
    spec.write_text("x = 1")
    with pytest.raises(UsageError, match=r"no NAME = GenerativeModel\(\.\.\.\) or .*ToyModel\(\.\.\.\)"):
        find_spec(str(spec))


def test_a_declaration_without_a_route_is_refused() -> None:
    with pytest.raises(UsageError, match="a Model names no route; declare a GenerativeModel"):
        route_of(Model("bare", "me/bare", published=dict))


@pytest.mark.slow
def test_a_run_goes_the_way_of_the_declared_route(spec: Path, tmp_path: Path) -> None:
    """Prepared, traced, compared, judged, audited and explained; the route need not be registered for that."""
    stages.register(toy("toy-faulty", "faulty"))
    try:
        options = Options(str(spec), miniature=True, stages=("toy-faulty",), out=tmp_path / "out")
        _, record = run(options, Watcher())
    finally:
        stages.unregister("toy-faulty")
    assert record.model == "toy"
    assert [hop.name for hop in record.hops] == ["hf->toy-faulty"]
    assert record.first_fault is not None
    assert record.first_fault.tap == FAULTY_TAP
    assert [entry.hypothesis for entry in record.diagnosis][:1] == ["constant_scale"], record.unexplained
    assert [finding.what for finding in record.findings if finding.kind != "numeric"] == []


@pytest.mark.slow
def test_its_config_is_audited(spec: Path) -> None:
    import_frameworks()  # as the process of an audit has, before it looks at what a spec replaces in them
    payload = AuditRequest(specs=[(str(spec), "TOY")]).model_dump()
    (audit,) = audit_models(payload, Silent())["audits"]
    assert (audit["model"], audit["error"], audit["findings"]) == ("toy", "", [])


def test_generative_models_are_where_they_were() -> None:
    from harness.spec.model import GenerativeModel

    assert harness.GenerativeModel is GenerativeModel
    assert issubclass(GenerativeModel, Model)
    with pytest.raises(ImportError):
        from harness.spec.model import SomethingElse  # noqa: F401


@pytest.mark.slow
def test_its_model_is_loaded(spec: Path) -> None:
    ref = find_spec(str(spec))
    assert ref.has_run
    assert isinstance(load_spec(ref), ToyModel)
