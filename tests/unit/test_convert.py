"""The conversion cache: what the key depends on, and that a conversion is made once."""

import dataclasses
import functools
import math
from pathlib import Path

import pytest

from harness.names.variant import Variant
from harness.pipeline.conversions import converted
from harness.stages.litert_torch import convert as conversion
from harness.stages.litert_torch.config import without_composites
from harness.stages.litert_torch.convert import conversion_key, fingerprint
from harness.store.cache import Cache


@dataclasses.dataclass
class Config:
    eps: float = 1e-5
    layers: int = 2
    rope: object = math.sin
    blocks: tuple = ("a", "b")


class Model:
    pass


def key(**changes: object) -> str:
    values = {
        "weights_sha256": "w",
        "config": Config(),
        "model_class": Model,
        "tensor_names": {"q": "q_proj"},
        "prefill": [32],
        "kv_cache_len": 256,
        "variant": Variant(),
    }
    return conversion_key(**(values | changes))


def test_the_same_content_has_the_same_key():
    assert key() == key(config=Config())


@pytest.mark.parametrize(
    "changes",
    [
        {"weights_sha256": "x"},
        {"config": Config(eps=1.0000000000000002e-5)},
        {"config": Config(layers=3)},
        {"config": Config(rope=math.cos)},
        {"config": Config(rope=functools.partial(math.pow, 2))},
        {"config": Config(blocks=("b", "a"))},
        {"tensor_names": {"q": "k_proj"}},
        {"prefill": [32, 64]},
        {"kv_cache_len": 128},
        {"variant": Variant(kv_layout="transposed")},
        {"variant": Variant(mask_as_input=True)},
    ],
)
def test_whatever_changes_the_bytes_changes_the_key(changes):
    assert key(**changes) != key()


def test_an_edited_model_class_changes_the_key(tmp_path, monkeypatch):
    import importlib

    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_model.py"
    file.write_text("class Own:\n    scale = 1\n")
    module = importlib.import_module("own_model")
    before = key(model_class=module.Own)
    file.write_text("class Own:\n    scale = 2\n")
    assert key(model_class=module.Own) != before


@pytest.mark.slow
def test_a_function_that_a_spec_puts_in_the_place_of_one_of_litert_torch_changes_the_key(tmp_path, monkeypatch):
    """Else a flatbuffer of the shipped code would be taken for one of the replaced code, and the other way round."""
    from litert_torch.generative.layers import attention_utils
    from litert_torch.generative.layers.attention import CausalSelfAttention

    before = key()
    keys = {before}
    for holder, name in ((attention_utils, "build_alibi_bias"), (CausalSelfAttention, "forward")):
        for content in ("1", "2"):
            file = tmp_path / "spec.py"
            file.write_text(f"def own(*args, **kwargs):\n    return {content}\n")
            space: dict[str, object] = {}
            exec(compile(file.read_text(), str(file), "exec"), space)
            with monkeypatch.context() as replaced:
                replaced.setattr(holder, name, space["own"])
                keys.add(key())
    assert len(keys) == 5
    assert key() == before


def test_another_converter_version_changes_the_key(monkeypatch):
    before = key()
    monkeypatch.setattr(conversion, "version", lambda name: "99")
    assert key() != before


def test_a_fingerprint_holds_no_address():
    assert "0x" not in str(fingerprint([Config(), Model, functools.partial(math.pow, 2)]))


def test_a_conversion_is_made_once_and_again_when_its_file_is_damaged(tmp_path):
    built = []

    def write(network: object, file: Path) -> None:
        built.append(network)
        file.write_bytes(b"flatbuffer" * 1000)

    said: list[str] = []
    cache = Cache(tmp_path, said.append)
    first = converted(cache, "a" * 40, lambda: "network", write)
    assert converted(cache, "a" * 40, lambda: "network", write) == first
    assert len(built) == 1
    content = bytearray(first.read_bytes())
    content[4321] ^= 1
    first.write_bytes(content)
    assert converted(cache, "a" * 40, lambda: "network", write).read_bytes() == b"flatbuffer" * 1000
    assert len(built) == 2
    assert "damaged" in said[0]


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    def build() -> object:
        raise MemoryError

    with pytest.raises(MemoryError):
        converted(Cache(tmp_path), "b" * 40, build, lambda network, file: None)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.slow
def test_a_configwithout_composites_is_another_conversion_with_everything_else_the_same():
    from litert_torch.generative.examples.gemma.gemma2 import get_model_config_2b

    config = get_model_config_2b()
    plain = without_composites(config)
    texts = [
        str(fingerprint(value)).replace("'enable_hlfb': 'True'", "'enable_hlfb': 'False'") for value in (config, plain)
    ]
    assert texts[0] == texts[1]
    assert "'enable_hlfb': 'True'" not in str(fingerprint(plain))
    assert str(fingerprint(config)).count("'enable_hlfb': 'True'") > config.num_layers
    assert key(config=config) != key(config=plain)
