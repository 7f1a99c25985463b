"""Finding and loading a declaration: read as text first, run only when needed."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from paths import ROOT

from harness.errors import UsageError
from harness.spec import declared
from harness.spec import find as spec_module
from harness.spec.catalogue import entries
from harness.spec.declared import held
from harness.spec.find import describe, find_spec, main_models, registered
from harness.spec.load import load_spec
from harness.spec.model import GenerativeModel, SpecRef

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


@pytest.mark.process
def test_reading_declarations_imports_no_framework():
    code = "import sys; from harness.spec.find import registered; registered(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "litert_torch", "tensorflow", "numpy"} & set(loaded)


def test_a_file_without_a_declaration_is_no_error_when_it_is_only_listed(tmp_path):
    assert describe(spec_in(tmp_path, "x = 1")) == []


# --- declarations that only running the file shows; they name registered models, which need litert-torch ---


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Have files run here, where the frameworks are imported once for all tests; says which were run."""
    ran: list[Path] = []

    def run(file: Path) -> list[dict]:
        ran.append(file)
        return held({"file": str(file)}, None)["models"]

    monkeypatch.setattr(declared, "run_in_a_process", run)
    monkeypatch.syspath_prepend(str(ROOT))
    return ran


PLAIN = WHOLE.replace("MY =", "BASE =")
COMPUTED = {
    "an imported base": (
        "import dataclasses\nfrom base_model import BASE\nMY = dataclasses.replace(BASE, name='mine')",
        "mine",
    ),
    "a base imported with all": (
        "from base_model import *\nfrom dataclasses import replace\nMY = replace(BASE, name='mine')",
        "mine",
    ),
    "in a function": (PLAIN.replace("BASE =", "def made():\n  return") + "MY = made()", "my"),
    "in another module": ("from base_model import BASE as MY", "my"),
    "fields from a dictionary": (
        PLAIN.replace("BASE = GenerativeModel(", "FIELDS = dict(") + "MY = GenerativeModel(**FIELDS)",
        "my",
    ),
    "a computed name": (WHOLE.replace('name="my"', 'name=f"my-{1 + 1}"'), "my-2"),
    "under a condition": ("if True:\n  " + WHOLE.strip().replace("\n", "\n  "), "my"),
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_a_declaration_that_reading_does_not_show_is_found_by_running(kind, tmp_path, monkeypatch):
    ran = in_this_process(monkeypatch)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "base_model", raising=False)
    (tmp_path / "base_model.py").write_text(PLAIN)
    text, name = COMPUTED[kind]
    path = spec_in(tmp_path, text)
    ref = find_spec(str(path))
    assert (ref.variable, ref.name, ran) == ("MY", name, [path])
    assert load_spec(ref).name == name
    assert find_spec(f"{path}:MY") == ref
    assert ran == [path]  # once


def test_a_file_that_reading_shows_whole_is_not_run(tmp_path, monkeypatch):
    ran = in_this_process(monkeypatch)
    assert find_spec(str(spec_in(tmp_path, WHOLE + "raise SystemExit"))).name == "my"
    assert ran == []


def test_a_file_that_declares_nothing_even_when_it_runs_says_so(tmp_path, monkeypatch):
    in_this_process(monkeypatch)
    with pytest.raises(UsageError, match="no NAME = GenerativeModel"):
        find_spec(str(spec_in(tmp_path, "import math\nx = math.pi")))


@pytest.mark.parametrize("name", ["../../outside", "a/b", ".hidden", "", "x" * 65, "a b", "a\x1b[2Jb", "été", 7])
def test_a_name_that_leads_somewhere_is_refused_written_out_or_computed(name, tmp_path, monkeypatch):
    in_this_process(monkeypatch)
    written = WHOLE.replace('name="my"', f"name={name!r}")
    computed = WHOLE.replace('name="my"', f"name=({name!r} if True else 0)")
    for text in (written, computed):
        with pytest.raises(UsageError, match="cannot name a folder; give 1 to 64") as refused:
            find_spec(str(spec_in(tmp_path, text)))
        assert "\x1b" not in str(refused.value)
    with pytest.raises(UsageError, match="cannot name a folder"):
        load_spec(SpecRef(spec_in(tmp_path, computed), "MY", {}))


@pytest.mark.parametrize(
    "wrong", ["prefill=()", "prefill=(0,)", "prefill=32", "prefill=(True,)", "prefill=(8.0,)", "kv_cache_len=0",
              "kv_cache_len=10**12", "kv_cache_len='256'", "prompt=3", "variant=None"]
)  # fmt: skip
def test_what_a_declaration_says_is_checked_once_it_has_run(wrong, tmp_path):
    path = spec_in(tmp_path, WHOLE.replace('name="my"', f'name="my", {wrong}'))
    with pytest.raises(UsageError, match=f"my_model.py: MY: {wrong.split('=')[0]} must be"):
        load_spec(find_spec(str(path)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import ctypes; ctypes.string_at(0)", "could not be run: killed by SIGSEGV"),
        ("import sys; sys.exit(3)", "cannot be run: SystemExit: 3"),
        ("import no_such_module", "cannot be run: ModuleNotFoundError"),
        (
            "import dataclasses\nfrom models.tiny_llama import TINY_LLAMA as T\nMY = dataclasses.replace(T, name='m')",
            "",
        ),
    ],
    ids=["crashes", "exits", "imports what is not there", "a registered base"],
)
def test_a_file_that_must_run_does_so_in_a_process_of_its_own(text, says, tmp_path):
    path = spec_in(tmp_path, text)
    if says:
        with pytest.raises(UsageError, match=f"my_model.py {says}"):
            find_spec(str(path))
    else:
        assert (find_spec(str(path)).variable, find_spec(str(path)).name) == ("MY", "m")


def test_a_name_that_two_files_declare_is_refused_with_both_and_listed_twice(tmp_path, monkeypatch):
    one, other, third = tmp_path / "one.py", tmp_path / "other.py", tmp_path / "third.py"
    one.write_text(WHOLE)
    other.write_text(WHOLE.replace('"my"', '"first_of_other"').replace("MY =", "FIRST =") + WHOLE)
    third.write_text(WHOLE.replace('"my"', '"third"'))
    monkeypatch.setattr(spec_module, "MODELS_FOLDER", tmp_path)
    with pytest.raises(UsageError, match="'my' is declared more than once: ") as caught:
        find_spec("my")
    assert f"{one} and {other}; give each a name of its own" in str(caught.value)
    assert find_spec("third").file == third
    assert set(main_models()) == {"my", "first_of_other", "third"}  # none is left out of --all without a word
    listed = [(entry.name, entry.file, entry.here, entry.remedy.partition(" declares")[0]) for entry in entries()]
    assert listed == [
        ("my", "models/one.py", False, "models/other.py"),
        ("first_of_other", "models/other.py", True, ""),
        ("my", "models/other.py", False, "models/one.py"),
        ("third", "models/third.py", True, ""),
    ]


def test_a_name_that_one_file_declares_twice_is_refused_with_both_variables(tmp_path, monkeypatch):
    path = spec_in(tmp_path, WHOLE + WHOLE.replace("MY =", "AGAIN ="))
    monkeypatch.setattr(spec_module, "MODELS_FOLDER", tmp_path)
    with pytest.raises(UsageError, match=f"{path}:MY and {path}:AGAIN; give each a name of its own"):
        find_spec("my")
