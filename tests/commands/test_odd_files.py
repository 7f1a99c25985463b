"""Nothing blocks a command: pipes, devices and files of gigabytes in place of what people write, and odd contents."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT

from harness.errors import UsageError
from harness.inputs.given import check_jsonl
from harness.judge.rules import load_rules
from harness.record.record import read_record
from harness.spec.find import describe
from harness.system.reading import read_bytes, read_json, read_toml
from harness.weights.sources import check_source


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_giant(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8_000_000_000)  # takes no room: nothing is written


def a_dead_link(path: Path) -> None:
    path.symlink_to("gone")


ODD = {
    "pipe": a_pipe,
    "device": a_device,
    "8,000,000,000 bytes": a_giant,
    "a link to gone, which is not there": a_dead_link,
}
READERS: dict[str, Callable[[Path], object]] = {
    "inputs": check_jsonl,
    "tolerances": load_rules,
    "declaration": describe,
    "record": lambda path: read_record(path.parent),
    "json": lambda path: read_json(path, "give another"),
}


@pytest.mark.parametrize("words", ODD)
@pytest.mark.parametrize("reader", READERS)
def test_only_a_regular_file_of_a_sane_size_is_read(reader: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "parity.json"
    ODD[words](path)
    with pytest.raises(UsageError) as refused:
        READERS[reader](path)
    assert str(path) in str(refused.value)
    assert words in str(refused.value)
    if words == "pipe":  # nothing is wrong with what comes out of it
        assert str(refused.value).endswith("write what comes out of it to a file first")


@pytest.mark.parametrize("words", ["pipe", "device"])
def test_a_flatbuffer_that_is_no_file_is_not_waited_for(words: str, tmp_path: Path) -> None:
    from harness.flatbuffer.reader import FlatbufferModel

    ODD[words](tmp_path / "m.tflite")
    with pytest.raises(UsageError, match=f"m.tflite cannot be read .it is a {words}"):
        FlatbufferModel(tmp_path / "m.tflite")


@pytest.mark.slow
def test_what_a_command_writes_into_a_shell_s_substitution_says_what_to_do(tmp_path: Path) -> None:
    words = f"exec {sys.executable} -m harness.commands.main run tiny_llama --inputs <(echo '{{\"tokens\": [1]}}')"
    ended = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "write what comes out of it to a file first" in ended.stderr


def test_a_file_that_grows_while_it_is_read_ends(tmp_path: Path) -> None:
    assert len(read_bytes(Path("/proc/self/status"), "")) > 100  # its size is said to be 0
    with pytest.raises(UsageError, match="more than 10 bytes"):
        read_bytes(Path("/proc/self/status"), "", 10)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "9" * 5000,
        "x = " + "[" * 100_000,
        "[[rule]]\nexcess = 0x1" + "0" * 5000,
        "[[rule]]\nname = 0x1" + "0" * 5000 + "\nexcess = 4.0",
        "[[rule]]\nexcess = " + "9" * 400,
    ],
    ids=["many digits", "deep", "a limit of many bits", "a name of many bits", "a limit beyond floats"],
)
def test_numbers_and_nesting_that_python_does_not_read_are_refused_in_tolerances(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(UsageError, match=r"t\.toml") as refused:
        load_rules(tmp_path / "t.toml")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000, '{"a":' * 100_000], ids=["digits", "[", "{"])
def test_the_same_in_json_and_in_declarations(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"config\.json is not valid JSON"):
        read_json(path, "download it again")
    if "f" not in text:
        path.write_text(f"x = {text}", encoding="utf-8")
        with pytest.raises(UsageError, match=r"config\.json"):
            describe(path)


def test_a_byte_order_mark_before_what_a_person_wrote_is_no_part_of_it(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    tolerances, inputs, spec = (tmp_path / name for name in ("own.toml", "own.jsonl", "own.py"))
    tolerances.write_bytes(mark + b"[[rule]]\nname = 'all'\nexcess = 4.0\n")
    assert load_rules(tolerances)[0].name == "all"
    inputs.write_bytes(mark + b'{"tokens": [1, 2]}\n')
    check_jsonl(inputs)
    spec.write_bytes(mark + b"from harness import GenerativeModel\nMODEL = GenerativeModel(name='m')\n")
    assert [ref.name for ref in describe(spec)] == ["m"]


def test_a_byte_order_mark_that_transformers_would_not_read_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_bytes(b'\xef\xbb\xbf{"model_type": "llama"}')
    with pytest.raises(UsageError, match="byte order mark, which transformers refuses; save it as UTF-8 without one"):
        read_json(config, "download it again")


def test_what_is_right_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('[[rule]]\nname = "Größe"\nexcess = 4\n', encoding="utf-8")
    (tmp_path / "link").symlink_to("t.toml")
    assert read_toml(tmp_path / "link", "tolerances", "")["rule"][0]["name"] == "Größe"
    assert load_rules(tmp_path / "link")[0].limits == {"excess": 4.0}


@pytest.mark.parametrize("words", ODD)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_of_weights_is_looked_at_before_anything_reads_it(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / name).unlink(missing_ok=True)
    ODD[words](tmp_path / name)
    if name == "model.safetensors" and words == "8,000,000,000 bytes":
        words = "broken safetensors header"  # that is what weights may weigh; their header says whether they do
        with pytest.raises(UsageError, match=f"{name} has a {words}; download it again"):
            check_source(str(tmp_path))
        return
    remedy = "write what comes out of it to a file first" if words == "pipe" else "download it again"
    with pytest.raises(UsageError, match=f"{name} cannot be read .*{words}.*; {remedy}"):
        check_source(str(tmp_path))


def test_links_to_nowhere_and_pipes_that_nobody_reads_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    a_dead_link(tmp_path / "README.md")
    a_dead_link(tmp_path / "training_args.json")
    a_pipe(tmp_path / "notes.txt")
    with pytest.raises(UsageError, match=r"has no \*\.safetensors; give a folder"):  # and nothing else is wrong
        check_source(str(tmp_path))
