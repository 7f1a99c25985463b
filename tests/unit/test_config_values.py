"""Values of a config.json that no model can have are one line that names the field, before anything loads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from generative import generative_main

from harness.errors import UsageError
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.weights.config_values import unknown_word
from harness.weights.configs import hf_config, raw_config

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
}  # fmt: skip


def written(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is NaN and must be a finite number"),
        ({"rms_norm_eps": math.inf}, "rms_norm_eps is Infinity and must be a finite number"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05 and must be a number from 0"),
        ({"rms_norm_eps": "1e-5"}, 'rms_norm_eps is "1e-5", a string, and must be a number'),
        ({"layer_norm_epsilon": True}, "layer_norm_epsilon is true, a boolean, and must be a number"),
        ({"rope_theta": 0}, "rope_theta is 0 and must be a number above 0"),
        ({"rope_parameters": {"rope_theta": math.inf}}, "rope_parameters.rope_theta is Infinity and"),
        ({"rope_scaling": {"factor": -2.0}}, "rope_scaling.factor is -2.0 and must be a number above 0"),
        ({"rope_scaling": {"long_factor": [1.0, math.nan]}}, "rope_scaling.long_factor.1 is NaN and"),
        ({"query_pre_attn_scalar": -256}, "query_pre_attn_scalar is -256 and must be a number above 0"),
        ({"final_logit_softcapping": -30.0}, "final_logit_softcapping is -30.0 and must be a number from 0"),
        ({"sliding_window": "16"}, 'sliding_window is "16", a string, and must be a number'),
        ({"a_scale_of_tomorrow": math.nan}, "a_scale_of_tomorrow is NaN and must be a finite number"),
        ({"text_config": {"rms_norm_eps": math.nan}}, "text_config.rms_norm_eps is NaN and"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_number_that_no_model_has_is_named_with_its_file_and_value(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        raw_config(written(tmp_path, **changes))
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {says}")
    assert str(caught.value).endswith("; correct it, or download it again")


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": 0},
        {"rope_theta": None, "sliding_window": None, "rope_scaling": None},
        {"sliding_window": -1},
        {"attention_multiplier": -0.5},
        {"vision_config": {"layer_norm_eps": "default"}},
        {"time_step_limit": [0.0, math.inf]},
        {"initializer_range": -1.0},
    ],
    ids="-".join,
)
def test_a_number_that_some_model_may_have_is_left_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert raw_config(written(tmp_path, **changes))["model_type"] == "llama"


def test_a_word_that_a_table_of_transformers_lacks_is_named_with_its_field() -> None:
    content = {"hidden_act": "swoosh", "rope_parameters": {"rope_type": "spiral"}}
    assert unknown_word(content, KeyError("swoosh")) == 'hidden_act is "swoosh", which transformers does not know'
    assert unknown_word(content, KeyError("spiral")).startswith('rope_parameters.rope_type is "spiral"')
    assert unknown_word(content, KeyError("elsewhere")) == unknown_word(content, ValueError("swoosh")) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attention_dropout": "a"}, "transformers takes no such 'llama' model (Field 'attention_dropout' with value"),
        ({"hidden_size": 18}, "transformers takes no such 'llama' model (The hidden size (18) is not a multiple of"),
        ({"model_type": "no_such"}, "transformers cannot use model type 'no_such' ("),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_transformers_does_not_take_is_blamed_on_the_architecture_only_where_it_does_not_know_that(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        hf_config(written(tmp_path, **changes))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'config.json'}: {says}")
    assert ("use a checkpoint of an architecture it knows" in message) == ("model_type" in changes)


@pytest.mark.slow
def test_the_published_config_of_every_model_here_is_left_alone(tmp_path: Path) -> None:
    for name, ref in generative_main().items():
        folder = tmp_path / name
        load_spec(find_spec(name)).published().save_pretrained(folder)
        assert raw_config(folder)["model_type"], ref
