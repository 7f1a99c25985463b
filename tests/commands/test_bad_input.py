"""Whatever is wrong with a command or an input ends in exit code 2 and one line that names the thing and the remedy.

Nothing goes to stdout, and nothing is left where runs are written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import ENVIRONMENT, SPEC
from marks import slow_but
from record_factory import make_run

OUT = "runs"

# What is wrong: files to write, the arguments, and what the line must say. Relative paths count from a fresh folder.
Case = tuple[dict[str, str | bytes], list[str], list[str]]


def run(*words: str) -> list[str]:
    return ["run", *words, "--out", OUT]


def spec(text: str, *says: str) -> Case:
    return {"spec.py": text}, run("./spec.py"), ["spec.py", *says]


def lines(text: str | bytes, *says: str) -> Case:
    return {"in.jsonl": text}, run("tiny_llama", "--inputs", "in.jsonl"), ["in.jsonl", *says]


def rules(text: str | bytes, *says: str) -> Case:
    return {"t.toml": text}, run("tiny_llama", "--tolerances", "t.toml"), ["t.toml", *says]


def flatbuffer(content: bytes, *says: str) -> Case:
    return {"m.tflite": content}, run("tiny_llama", "--tflite", "m.tflite"), ["m.tflite", *says]


def words(*arguments: str, says: list[str]) -> Case:
    return {}, list(arguments), says


def record(content: str | bytes, *says: str) -> Case:
    return {"run/parity.json": content}, ["explain", "run"], ["run/parity.json", "run the model again", *says]


def weights(config: dict[str, Any], header: dict[str, Any], *says: str) -> Case:
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(64)
    files: dict[str, str | bytes] = {"w/config.json": json.dumps(config), "w/model.safetensors": content}
    return files, run("tiny_llama", "--checkpoint", "w"), ["w", *says]


def tensor(begin: int = 0, end: int = 64, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [4, 4], "data_offsets": [begin, end]}


LLAMA = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4, "vocab_size": 4, "intermediate_size": 4}


CASES: dict[str, Case] = {
    "adapter as checkpoint": (
        {"w/adapter_config.json": '{"peft_type": "LORA", "base_model_name_or_path": "org/base"}'},
        run("tiny_llama", "--checkpoint", "w"),
        ["w is a PEFT adapter (LORA, for org/base)", "merge it first"],
    ),
    "checkpoint of 100,000 layers": weights(
        {**LLAMA, "num_hidden_layers": 100_000}, {"x": tensor()}, "num_hidden_layers 100000", "no model has"
    ),
    "checkpoint of too many layers": weights(
        {**LLAMA, "num_hidden_layers": 5}, {"model.layers.0.x": tensor()}, "5 layers, the weights have 1"
    ),
    "quantised checkpoint": weights(
        {**LLAMA, "quantization_config": {"quant_method": "fp8"}}, {"x": tensor(0, 64)}, "fp8", "dequantise it"
    ),
    "weights that overlap": weights(LLAMA, {"x": tensor(), "y": tensor()}, "model.safetensors", "y overlaps x"),
    "weights of an unknown dtype": weights(LLAMA, {"x": tensor(dtype="F33")}, "unknown dtype 'F33'", "download it"),
    "weights with a negative offset": weights(LLAMA, {"x": tensor(-64, 0)}, "x has a size or an offset"),
    "audit of 100,000 layers": (
        {"w/config.json": json.dumps({**LLAMA, "num_hidden_layers": 100_000})},
        ["audit", "tiny_llama", "--checkpoint", "w"],
        ["num_hidden_layers 100000", "no model has"],
    ),
    "no model": words("run", says=["MODEL", "--help"]),
    "unknown model, nearest": words(*run("smolm2"), says=["'smolm2'", "did you mean 'smollm2'?"]),
    "unknown model, none near": words(*run("qqqq"), says=["'qqqq'", "edge-parity list"]),
    "empty model": words(*run(""), says=["''", "edge-parity list"]),
    "no such spec file": words(*run("./absent.py"), says=["absent.py", "GenerativeModel"]),
    "no such spec file, named model": words(*run("./absent.py:X"), says=["absent.py", "GenerativeModel"]),
    "folder as spec file": words(*run("./"), says=["give the path of a .py file"]),
    "spec, syntax error": spec("x = (\n", "spec.py:1", "never closed", "fix the spec file"),
    "spec, not text": ({"spec.py": b"\xff\xfe\x01"}, run("./spec.py"), ["spec.py", "UTF-8"]),
    "spec, NUL byte": ({"spec.py": b"x = 1\x00"}, run("./spec.py"), ["spec.py:1", "null bytes"]),
    "spec, empty": spec("", "no NAME = GenerativeModel(...)", "docs/adding-a-model.md"),
    "spec, missing field": spec(SPEC.replace("model_class=", "prompt="), "TINY_LLAMA lacks model_class"),
    "spec, unknown field": spec(SPEC.replace("model_class=", "model_clas=1, model_class="), "'model_class'"),
    "spec, several models": spec(SPEC + '\nB = GenerativeModel(name="b")\n', "spec.py:TINY_LLAMA", "spec.py:B"),
    "spec, no such name": ({"spec.py": SPEC}, run("./spec.py:NOPE"), ["spec.py", "NOPE"]),
    "unknown stage": words(*run("tiny_llama", "--stages", "hf,foo"), says=["'foo'", "tflite-xnnpack"]),
    "no stage": words(*run("tiny_llama", "--stages", ""), says=["--stages is empty", "reauthored"]),
    "stages without a hop": words(*run("tiny_llama", "--stages", "oracle,hf"), says=["compares nothing", "reauthored"]),
    "unknown option": words(*run("tiny_llama", "--no-cach"), says=["--no-cach", "--no-cache"]),
    "unknown command": words("rum", says=["'rum'", "--help"]),
    "zero seconds": words(*run("tiny_llama", "--timeout", "0"), says=["--timeout 0", "--timeout 600"]),
    "negative seconds": words(*run("tiny_llama", "--timeout", "-1"), says=["--timeout -1", "--timeout 600"]),
    "NaN seconds": words(*run("tiny_llama", "--timeout", "nan"), says=["--timeout nan", "--timeout 600"]),
    "seconds that are not a number": words(*run("tiny_llama", "--timeout", "soon"), says=["--timeout", "number"]),
    "seed beyond the generators": words(*run("tiny_llama", "--seed", str(2**64)), says=["--seed 18446744073709551616"]),
    "seed of many digits": words(*run("tiny_llama", "--seed", "9" * 4000), says=["--seed 999", "below 2^64"]),
    "seed of a search beyond the generators": words(
        "fuzz", "tiny_llama", "--seed", str(2**70), says=["--seed 1180591620717411303424", "below 2^64"]
    ),
    "endless seconds": words(*run("tiny_llama", "--timeout", "inf"), says=["--timeout inf", "--timeout 600"]),
    "years of seconds": words(*run("tiny_llama", "--timeout", "1e12"), says=["--timeout 1e+12", "--timeout 600"]),
    "no prefill": words(*run("tiny_llama", "--prefill", ""), says=["--prefill is not a list", "--prefill 8,32"]),
    "prefill of nothing": words(*run("tiny_llama", "--prefill", "0"), says=["--prefill 0 is not a list", "from 1"]),
    "prefill of many digits": words(*run("tiny_llama", "--prefill", "9" * 5000), says=["--prefill 999", "from 1"]),
    "no cache": words(*run("tiny_llama", "--kv-cache-len", "0"), says=["--kv-cache-len 0", "1 or more"]),
    "tflite and a length of the cache": (
        {"m.tflite": b"x"},
        run("tiny_llama", "--tflite", "m.tflite", "--kv-cache-len", "64"),
        ["--tflite", "--kv-cache-len says how to convert"],
    ),
    "empty paths": words(*run("tiny_llama", "--inputs", ""), says=["--inputs", "it is empty", "leave the option out"]),
    "empty folder of runs": words("report", "latest", "--out", "", says=["--out", "it is empty"]),
    "no recipe": words(*run("tiny_llama", "--quantize", ""), says=["--quantize is empty", "dynamic_int8"]),
    "spec, a name that leads out": spec(
        SPEC.replace('"tiny_llama"', '"../../outside"'), "'../../outside'", "give 1 to 64"
    ),
    "page in no folder": words("diff", "a", "b", "--html", "/proc/x/y", says=["--html /proc/x/y", "another folder"]),
    "negative seed": words(*run("tiny_llama", "--seed", "-1"), says=["--seed -1", "0 or more"]),
    "no layers": words(*run("tiny_llama", "--miniature", "--layers", "0"), says=["--layers 0", "1 or more"]),
    "fractional layers": words(*run("tiny_llama", "--miniature", "--layers", "1.5"), says=["--layers", "integer"]),
    "more layers than there are, at full width": words(
        *run("tiny_llama", "--layers", "23"), says=["--layers 23", "tiny_llama has 22 layers"]
    ),
    "more layers than there are": words(
        *run("tiny_llama", "--miniature", "--layers", "23"), says=["--layers 23", "tiny_llama has 22 layers"]
    ),
    "fractional seed": words(*run("tiny_llama", "--seed", "1.5"), says=["--seed", "integer"]),
    "empty prompt": words(*run("tiny_llama", "--prompt", " "), says=["--prompt is empty", "give some text"]),
    "no such inputs file": words(*run("tiny_llama", "--inputs", "no.jsonl"), says=["no.jsonl", "JSON lines"]),
    "folder as inputs file": words(*run("tiny_llama", "--inputs", "."), says=["Is a directory", "JSON lines"]),
    "no such text": words(*run("tiny_llama", "--text", "no.txt"), says=["no.txt", "--text takes a file of plain text"]),
    "folder as text": words(*run("tiny_llama", "--text", "."), says=["Is a directory", "plain text"]),
    "inputs, empty": lines("", "holds no inputs", '{"text"'),
    "inputs, empty lines only": lines("\n \n", "holds no inputs", '{"text"'),
    "inputs, not text": lines(b"\xff\xfe", "not UTF-8", "JSON lines"),
    "inputs, no JSON": lines('{"tokens": [1]}\n{"tokens": [1\n', "in.jsonl:2", "no JSON", '{"tokens": [1, 2, 3]}'),
    "inputs, no object": lines("[1, 2]\n", "in.jsonl:1", "not an object"),
    "inputs, unknown key": lines('{"token": [1]}\n', "in.jsonl:1", "'token'", "tokens"),
    "inputs, neither": lines('\n{"id": "a"}\n', "in.jsonl:2", "neither"),
    "inputs, no tokens": lines('{"tokens": []}\n', "in.jsonl:1", '{"tokens": [1, 2, 3]}'),
    "inputs, fractional token": lines('{"tokens": [1, 2.5]}\n', "in.jsonl:1", "2.5", "whole numbers"),
    "inputs, same id twice": lines('{"tokens": [1], "id": "a"}\n{"tokens": [2], "id": "A"}', "in.jsonl:2", "line 1"),
    "inputs, id that leads out": lines('{"tokens": [1], "id": "../x"}\n', "in.jsonl:1", "../x"),
    "no such tolerances": words(*run("tiny_llama", "--tolerances", "no.toml"), says=["no.toml", "[[rule]]"]),
    "folder as tolerances": words(*run("tiny_llama", "--tolerances", "."), says=["cannot be read", "[[rule]]"]),
    "tolerances, not TOML": rules("[[rule\n", "not TOML", "line 1"),
    "tolerances, not text": rules(b"\xff\xfe", "cannot be read", "[[rule]]"),
    "tolerances, empty": rules("", "no [[rule]]", "harness/judge/tolerances.toml"),
    "tolerances, rule is not a table": rules("rule = [1]\n", "no [[rule]]", "harness/judge/tolerances.toml"),
    "tolerances, unknown metric": rules(
        '[[rule]]\nname = "r"\nexces = 1\n', "'r'", "'exces'", "did you mean 'excess'?"
    ),
    "tolerances, hop of no run": rules(
        '[[rule]]\nhop = "nope->x"\nexcess = 4\n', "'nope->x'", "hf->reauthored", "reauthored->tflite-builtin"
    ),
    "tolerances, tap of no model": rules('[[rule]]\ntap = "atn"\nexcess = 4\n', "'atn'", "final_norm", "attn.q"),
    "inputs, key twice": lines('{"tokens": [1], "tokens": [2]}\n', "in.jsonl:1", "'tokens'", "twice", "keep one"),
    "tolerances, no limit": rules('[[rule]]\nname = "r"\ntap = "*"\n', "'r'", "no limit", "excess = 4.0"),
    "tolerances, limit is text": rules('[[rule]]\nexcess = "4"\n', "excess must be a number"),
    "no such flatbuffer": words(*run("tiny_llama", "--tflite", "no.tflite"), says=["no.tflite", ".tflite file"]),
    "folder as flatbuffer": words(*run("tiny_llama", "--tflite", "."), says=["Is a directory", ".tflite file"]),
    "flatbuffer, empty": flatbuffer(b"", "is empty"),
    "flatbuffer, text": flatbuffer(b"this is text, and quite long\n", "no TFLite flatbuffer"),
    "flatbuffer, header only": flatbuffer(b"\x1c\x00\x00\x00TFL3", "damaged or truncated", "convert it again"),
    "tflite and a KV layout": (
        {"m.tflite": b"x"},
        run("tiny_llama", "--tflite", "m.tflite", "--kv-layout", "transposed", "--no-hlfb"),
        ["--tflite", "--no-hlfb and --kv-layout", "leave one of them out"],
    ),
    "unknown KV layout": words(
        *run("tiny_llama", "--kv-layout", "sideways"), says=["--kv-layout sideways", "transposed"]
    ),
    "prefill, no numbers": words(*run("tiny_llama", "--prefill", "8,x"), says=["--prefill 8,x", "--prefill 8,32"]),
    "checkpoint and miniature": words(
        *run("tiny_llama", "--checkpoint", ".", "--miniature"), says=["--checkpoint and --miniature"]
    ),
    "checkpoint for two models": words(
        *run("tiny_llama", "smollm2", "--checkpoint", "."), says=["--checkpoint", "name one model"]
    ),
    "no such checkpoint": words(*run("tiny_llama", "--checkpoint", "./absent"), says=["./absent", "no such folder"]),
    "empty checkpoint": words(*run("tiny_llama", "--checkpoint", ""), says=["--checkpoint is empty", "org/name"]),
    "file as checkpoint": ({"a": "x"}, run("tiny_llama", "--checkpoint", "a"), ["--checkpoint a", "is a file"]),
    "checkpoint without config": words(*run("tiny_llama", "--checkpoint", "."), says=["config.json", "Hugging Face"]),
    "file as output": ({"f": "x"}, ["run", "tiny_llama", "--out", "f"], ["--out f", "give another folder"]),
    "output in a file": ({"f": "x"}, ["run", "tiny_llama", "--out", "f/x"], ["--out f/x", "give another folder"]),
    "output nobody can make": words("run", "tiny_llama", "--out", "/proc/x", says=["/proc/x", "give another folder"]),
    "no examples": words("fuzz", "tiny_llama", "--max-examples", "0", says=["--max-examples 0", "1 or more"]),
    "negative examples": words("fuzz", "tiny_llama", "--max-examples", "-5", says=["--max-examples -5", "1 or more"]),
    "negative seed of a search": words("fuzz", "tiny_llama", "--seed", "-1", says=["--seed -1", "0 or more"]),
    "unknown hop": words("fuzz", "tiny_llama", "--hop", "hf->tflite", says=["--hop hf->tflite", "hf->reauthored"]),
    "folder as found input": words("fuzz", "tiny_llama", "--out", ".", says=["--out .", "is a folder", ".jsonl"]),
    "found input nobody can write": words(
        "fuzz", "tiny_llama", "--out", "/proc/x/y", says=["/proc/x/y", "another folder"]
    ),
    "fuzz of no model": words("fuzz", says=["MODEL", "--help"]),
    "fuzz of an unknown model": words("fuzz", "smolm2", says=["did you mean 'smollm2'?"]),
    "report of nothing": words("report", "absent", says=["absent", "parity.json", "latest"]),
    "explain of nothing": words("explain", "absent", says=["absent", "parity.json", "latest"]),
    "diff of nothing": words("diff", "absent", "absent", says=["absent", "parity.json", "latest"]),
    "diff of one": words("diff", "latest", says=["RUN_B"]),
    "report of a file": ({"f": "x"}, ["report", "f"], ["no run in f", "latest"]),
    "record, cut": record('{"schema": 1', "EOF"),
    "record, no schema": record(make_run()[0].model_dump_json(by_alias=True, exclude={"schema_"}), "schema"),
    "record, no object": record("[]", "object"),
    "record, incomplete": record('{"schema": 1, "model": "m"}', "run_id"),
    "record, not text": record(b"\xff\xfe\x00"),
    "record, not a file": ({"run/parity.json/x": "x"}, ["explain", "run"], ["parity.json", "Is a directory"]),
    "no runs yet": words("report", "latest", "--out", OUT, says=["no run in runs", "edge-parity run MODEL"]),
    "no runs of a model": words("explain", "m@latest", "--out", OUT, says=["no run of m", "edge-parity run m"]),
}


# The same entry, without the half second in which a fresh interpreter imports it and what checks files.
SERVER = """
import atexit, json, os, sys
import harness.commands.main, harness.commands.run, harness.flatbuffer.reader, harness.fuzz.command
import harness.compare.runs, harness.record.runs
for line in sys.stdin:
    arguments, folder, *outputs = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        for number, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["edge-parity", *arguments]
        try:
            harness.commands.main.main()
        except SystemExit as ended:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)  # tearing all down takes five times as long as the command
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

Ended = tuple[int, str, str]  # exit code, stdout, stderr
Command = Callable[[list[str], Path], Ended]


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command line in a process of its own, forked from one that has imported it."""
    outputs = [tmp_path_factory.mktemp("said") / name for name in ("stdout", "stderr")]
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def call(arguments: list[str], folder: Path) -> Ended:
            for path in outputs:
                path.write_text("")
            server.stdin.write(json.dumps([arguments, str(folder), *map(str, outputs)]) + "\n")
            server.stdin.flush()
            code = int(server.stdout.readline())
            return code, outputs[0].read_text(), outputs[1].read_text()

        yield call


def fresh(arguments: list[str], folder: Path) -> Ended:
    """The command line as a person starts it."""
    command = [sys.executable, "-m", "harness.commands.main", *arguments]
    ended = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stdout, ended.stderr


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def assert_refused(ended: Ended, says: list[str]) -> None:
    code, stdout, stderr = ended
    assert code == 2, stderr
    assert stdout == ""
    (line,) = stderr.splitlines()
    assert line.startswith("edge-parity: ")
    for word in says:
        assert word in line


def assert_refused_without_a_trace(command: Command, case: Case, folder: Path) -> None:
    files, arguments, says = case
    write(folder, files)
    before = sorted(folder.rglob("*"))
    assert_refused(command(arguments, folder), says)
    assert sorted(folder.rglob("*")) == before


NEED_FRAMEWORKS = (
    "more layers than there are",
    "more layers than there are, at full width",
    "spec, no such name",
)


@pytest.mark.process
@pytest.mark.parametrize("name", slow_but(set(CASES) - set(NEED_FRAMEWORKS), CASES))
def test_bad_input_is_one_line_and_leaves_nothing(name: str, forked: Command, tmp_path: Path) -> None:
    assert_refused_without_a_trace(forked, CASES[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unknown model, nearest", "inputs, no JSON", "flatbuffer, text", "record, cut"])
def test_a_fresh_command_line_adds_no_line_of_its_own(name: str, tmp_path: Path) -> None:
    assert_refused_without_a_trace(fresh, CASES[name], tmp_path)


@pytest.mark.slow
def test_a_spec_file_that_crashes_python_is_one_line_too(tmp_path: Path) -> None:
    text = SPEC + "\nimport ctypes; print('noise', flush=True); ctypes.string_at(0)\n"
    case = ({"spec.py": text}, run("./spec.py"), ["spec.py", "SIGSEGV"])
    assert_refused_without_a_trace(fresh, case, tmp_path)
