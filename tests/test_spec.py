"""Finding and loading a declaration: read as text first, run only when needed."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.spec import GenerativeModel, describe, find_spec, load_spec, registered

NUMBERS = re.compile(r"[\s\d.,]+")  # a line of a longer list, such as rope factors


WHOLE = """
from harness import GenerativeModel
MY = GenerativeModel(
    name="my", hf_id="me/my", config=lambda: None, model_class=object, tensor_names=None, published=lambda: None
)
"""


def spec_in(folder: Path, text: str) -> Path:
    path = folder / "my_model.py"
    path.write_text(text)
    return path


def test_every_registered_model_is_about_twenty_lines_and_names_what_it_declares():
    models = registered()
    assert {"smollm2", "tiny_llama"} <= set(models)
    declared_in = Counter(ref.file for ref in models.values())
    for ref in models.values():
        lines = [line for line in ref.file.read_text().splitlines() if not NUMBERS.fullmatch(line)]
        assert len(lines) <= 18 + 14 * declared_in[ref.file]
        assert ref.declared["hf_id"].count("/") == 1


def test_a_spec_file_anywhere_works_as_a_registered_name(tmp_path):
    path = spec_in(tmp_path, WHOLE)
    ref = find_spec(str(path))
    assert (ref.name, ref.variable) == ("my", "MY")
    model = load_spec(ref)
    assert isinstance(model, GenerativeModel)
    assert model.prefill == (32,)
    assert find_spec(f"{path}:MY") == ref


def test_one_of_several_models_in_a_file_is_named_after_a_colon(tmp_path):
    path = spec_in(tmp_path, WHOLE + WHOLE.replace("MY =", "OTHER =").replace('"my"', '"other"'))
    assert find_spec(f"{path}:OTHER").name == "other"
    with pytest.raises(UsageError, match=r"several models; name one of .*:MY, .*:OTHER"):
        find_spec(str(path))


def test_a_variant_has_the_fields_of_its_base_but_for_those_it_gives(tmp_path):
    variant = 'from dataclasses import replace\nSMALL = replace(MY, name="small", prompt="Hello")\n'
    path = spec_in(tmp_path, WHOLE + variant)
    ref = find_spec(f"{path}:small")
    assert (ref.variable, ref.declared["hf_id"], ref.declared["prompt"]) == ("SMALL", "me/my", "Hello")
    assert (load_spec(ref).name, load_spec(ref).hf_id) == ("small", "me/my")
    path = spec_in(tmp_path, WHOLE + variant + 'text = replace(WHOLE, name="no model")')
    assert [ref.name for ref in describe(path)] == ["my", "small"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (WHOLE.replace('hf_id="me/my", ', ""), "lacks hf_id"),
        (WHOLE.replace("config=", "confg="), "lacks config"),
        (WHOLE.replace('name="my",', 'name="my", kv_cache_length=3,'), "did you mean 'kv_cache_len'"),
        ("x = (", "my_model.py:1: syntax error"),
        ("x = 1", "no NAME = GenerativeModel"),
    ],
)
def test_a_spec_that_is_wrong_says_so_before_anything_runs(tmp_path, text, says):
    with pytest.raises(UsageError) as caught:
        find_spec(str(spec_in(tmp_path, text)))
    assert says in str(caught.value)


def test_a_spec_that_fails_while_it_runs_names_the_file_and_the_error(tmp_path):
    path = spec_in(tmp_path, WHOLE + "\nraise RuntimeError('not today')\n")
    with pytest.raises(UsageError, match=r"my_model\.py cannot be run: RuntimeError: not today"):
        load_spec(find_spec(str(path)))


def test_the_nearest_name_is_suggested():
    with pytest.raises(UsageError, match="did you mean 'smollm2'"):
        find_spec("smolm2")


def test_reading_declarations_imports_no_framework():
    code = "import sys; from harness.spec import registered; registered(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "litert_torch", "tensorflow", "numpy"} & set(loaded)


def test_a_file_without_a_declaration_is_no_error_when_it_is_only_listed(tmp_path):
    assert describe(spec_in(tmp_path, "x = 1")) == []
