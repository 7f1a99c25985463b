"""Whatever is brought, a command ends in one of four ways: a pass of what means the same, a fail, exit code 2 with a
remedy, or exit code 3 with a record. Hypothesis spoils what people and strangers bring, in the same way each time.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import HOSTILE, ODD_VALUES, spoilt_bytes, spoilt_json, spoilt_table
from record_factory import make_run
from watching import Watcher

from harness.commands import exits
from harness.commands.main import app
from harness.errors import UsageError
from harness.explore.tap_level import choose_hop, tap_view
from harness.inputs.given import inputs_from_jsonl
from harness.judge.rules import judge, load_rules
from harness.pipeline import run as pipeline
from harness.pipeline.options import Options
from harness.pipeline.run_models import load_models
from harness.record.record import read_run, write_record
from harness.render.explorer import dataflow
from harness.spec.find import MODELS_FOLDER, describe
from harness.spec.load import load_spec
from harness.spec.model import SpecRef
from harness.weights.files import stored_tensors

FOUR = {0, 1, 2, 3}
TINY_LLAMA = MODELS_FOLDER / "tiny_llama.py"


# EDGE_PARITY_FUZZ=20 tries twenty times as many, for whoever has the minutes.
TIMES = int(os.environ.get("EDGE_PARITY_FUZZ", "1"))


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples * TIMES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def ended(call: Callable[[], Any]) -> tuple[int, str]:
    """(exit code, what it says) of something a command does, as the command line would end it."""
    try:
        code = call()
    except Exception as error:
        said, code = exits.explained(error)
        if code == exits.FAULT:
            raise  # Hypothesis then shows the smallest input that does this
        assert code == 2
        assert "; " in said or ": " in said, f"no remedy: {said}"
        return code, said
    return code if isinstance(code, int) and not isinstance(code, bool) else 0, ""


def command(*words: object) -> Callable[[], Any]:
    return lambda: app(list(map(str, words)), standalone_mode=False)


# --- run folders ---


RECORD, FRAME = make_run("fail")
FEW = FRAME["block"].isin([7, 8]) | (FRAME["tap"] == "logits")
SMALL = FRAME[FRAME["input"].isin(["one-token", "long"]) & FEW].reset_index(drop=True)
TEXT = json.loads(RECORD.to_json())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("good", "spoilt"):
        (folder / name).mkdir()
        write_record(folder / name, RECORD, SMALL)
    return folder


def read_it_in_every_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, good = folder / "spoilt", folder / "good"
    for words in (["explain", run], ["diff", good, run], ["diff", run, good], ["report", run]):
        code, _ = ended(command(*words))
        assert code in FOUR
    said, _ = capsys.readouterr()
    assert not set(said) & set("\x1b\u202e\r"), "what acts on a terminal"

    def opened() -> None:
        record, frame = read_run(run)
        tap_view(record, frame, choose_hop(record, frame)).documents  # noqa: B018

    assert ended(opened)[0] in FOUR


@pytest.mark.slow
@bounded(15)
@given(content=spoilt_json(TEXT))
def test_a_record_that_was_changed(content: Any, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(runs / "spoilt", RECORD, SMALL)
    (runs / "spoilt" / "parity.json").write_text(json.dumps(content))
    read_it_in_every_way(runs, capsys)


@pytest.mark.slow
@bounded(12)
@given(frame=spoilt_table(SMALL))
def test_a_table_of_taps_that_was_changed(frame: Any, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(runs / "spoilt", RECORD, SMALL)
    try:
        frame.to_parquet(runs / "spoilt" / "taps.parquet", index=False)
    except Exception:  # a table that no program can write needs no reader
        return
    read_it_in_every_way(runs, capsys)


@pytest.mark.slow
@bounded(40)
@given(data=st.data(), name=st.sampled_from(["parity.json", "taps.parquet"]))
def test_files_of_a_run_with_bytes_changed(
    data: st.DataObject, name: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = runs / "spoilt" / name
    content = (runs / "good" / name).read_bytes()
    write_record(runs / "spoilt", RECORD, SMALL)
    file.write_bytes(data.draw(spoilt_bytes(content)))
    assert ended(lambda: read_run(runs / "spoilt"))[0] in FOUR


@bounded(40)
@given(
    content=spoilt_json({"prepared": {"model": "m", "dimensions": {"blocks": 1}}, "spec_file": "a", "flatbuffers": {}})
)
def test_what_a_run_says_of_its_models(content: Any, runs: Path) -> None:
    (runs / "spoilt" / "explorer").mkdir(exist_ok=True)
    (runs / "spoilt" / "explorer" / "models.json").write_text(json.dumps(content))
    assert ended(lambda: load_models(runs / "spoilt"))[0] == 2


# --- inputs, tolerances, declarations ---


LINES = [{"tokens": [1, 2, 3], "id": "a", "decode_tail": 1}, {"tokens": [511], "decode_tail": 0}]


@pytest.mark.slow
@bounded(100)
@given(entries=spoilt_json(LINES))
def test_inputs(entries: Any, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(json.dumps(entry) for entry in entries))
    try:
        read = inputs_from_jsonl(file, None, 512, 64)
    except UsageError as refused:
        said = str(refused)
    else:
        said = ""
    if said:
        assert str(file) in said
        assert len(said) < 1000
        return
    assert [list(item.tokens) for item in read] == [entry["tokens"] for entry in entries if entry]
    assert all(0 <= token < 512 for item in read for token in item.tokens)


@bounded(40)
@given(content=spoilt_bytes(json.dumps(LINES[0]).encode()))
def test_inputs_with_bytes_changed(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    assert ended(lambda: inputs_from_jsonl(tmp_path / "in.jsonl", None, 512, 64) and 0)[0] in FOUR


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else str(value)


RULES = [{"name": "r", "tap": "*", "excess": 4.0, "position_excess": 16.0}, {"name": "s", "hop": "hf->*", "excess": 2}]
FAR_OFF = dict.fromkeys(("excess", "position_excess", "total_excess", "rel_l2", "max_abs_err", "noise_floor"), 1e300)


@bounded(100)
@given(rules=spoilt_json(RULES))
def test_tolerances_pass_nothing_that_is_far_off(rules: Any, tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text("".join(f"[[rule]]\n{''.join(f'{json.dumps(k)} = {toml(v)}{chr(10)}' for k, v in rule.items())}"
                            for rule in rules if isinstance(rule, dict)), errors="replace")  # fmt: skip
    code, said = ended(lambda: load_rules(file) and 0)
    if code == 2:
        assert len(said) < 1000
        return
    for figures in (FAR_OFF, dict.fromkeys(FAR_OFF, math.nan), {}):
        judged = judge(load_rules(file), "m", "hf->reauthored", "block.0.attn.q", 9, figures)
        assert judged.verdict == "fail", "a limit that limits nothing"


DECLARATION = {
    "name": "my", "hf_id": "me/my", "config": None, "model_class": None, "tensor_names": None, "published": None,
    "prefill": [8, 32], "kv_cache_len": 64, "prompt": "text", "variant": "default", "coverage": {"hf->reauthored": 0.9},
}  # fmt: skip


@pytest.mark.slow
@bounded(100)
@given(fields=spoilt_json(DECLARATION))
def test_declarations(fields: Any, tmp_path: Path) -> None:
    file = tmp_path / "spec.py"
    nan = "nan = float('nan'); inf = float('inf')\n"
    given_fields = ", ".join(f"{key}={value!r}" for key, value in fields.items() if key.isidentifier())
    file.write_text(f"from harness import GenerativeModel\n{nan}MY = GenerativeModel({given_fields})", errors="replace")

    def read() -> int:
        describe(file)
        model = load_spec(SpecRef(file, "MY", {}))
        assert isinstance(model.name, str)
        assert "/" not in model.name
        assert all(0 < length < 2**31 for length in (*model.prefill, model.kv_cache_len))
        return 0

    assert ended(read)[0] in FOUR


@bounded(40)
@given(content=spoilt_bytes(b"from harness import GenerativeModel\nMY = GenerativeModel(name='my', prefill=(8, 32))\n"))
def test_declarations_with_bytes_changed(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "spec.py").write_bytes(content)
    assert ended(lambda: describe(tmp_path / "spec.py") and 0)[0] in FOUR


# --- weights ---


HEADER = {"a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}, "__metadata__": {"format": "pt"}}  # fmt: skip  # noqa: E501
DATA = bytes(range(22))


def safetensors(header: Any, data: bytes = DATA) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensors_of(folder: Path) -> dict[str, Any]:
    return {name: (found.dtype, found.shape) for name, found in stored_tensors(folder).items()}


WHOLE = {"a.weight": ("F32", (2, 2)), "b": ("BF16", (3,))}


@pytest.mark.slow
@bounded(120)
@given(header=spoilt_json(HEADER))
def test_headers_of_weights_are_whole_or_refused(header: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(header))
    try:
        found = tensors_of(tmp_path)
    except UsageError as refused:
        found, said = {}, str(refused)
    else:
        said = ""
    if said:
        assert "model.safetensors" in said
        return
    bytes_of = {"F32": 4, "BF16": 2}
    assert sum(math.prod(shape) * bytes_of[dtype] for dtype, shape in found.values()) == len(DATA)


@pytest.mark.slow
@bounded(100)
@given(content=spoilt_bytes(safetensors(HEADER), head=40))
def test_weights_with_bytes_changed(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert ended(lambda: tensors_of(tmp_path) and 0)[0] in FOUR


def test_what_means_the_same_is_read_the_same(tmp_path: Path) -> None:
    other = {name: HEADER[name] for name in reversed(HEADER)}
    (tmp_path / "model.safetensors").write_bytes(safetensors(other))
    assert tensors_of(tmp_path) == WHOLE
    (tmp_path / "t.toml").write_text('[[rule]]\r\n"excess" = 4.0\r\nname = "r" # said\r\n')
    assert load_rules(tmp_path / "t.toml")[0].limits == {"excess": 4.0}
    (tmp_path / "in.jsonl").write_text('\ufeff\n{ "tokens" :[1 ,2]}\r\n\n', encoding="utf-8")
    (item,) = inputs_from_jsonl(tmp_path / "in.jsonl", None, 512, 64)
    assert item.tokens == (1, 2)


def test_the_ways_to_spoil_reach_what_acts_on_a_terminal() -> None:
    assert HOSTILE in ODD_VALUES


def test_a_graph_of_few_taps_of_many_blocks_is_drawn_at_once() -> None:
    """Every way back from a tap whose sources are gone would be tried: three for each block in between."""
    taps = [f"block.{block}.attn.q" for block in range(0, 420, 7)]
    before = dataflow(taps)
    assert [before[tap] for tap in taps] == [taps[:number][::-1] for number in range(len(taps))]


# --- flatbuffers, and runs of their own ---


@pytest.mark.slow
@bounded(12)
@given(data=st.data())
def test_a_flatbuffer_with_bytes_changed(
    data: st.DataObject, shipped: Path, prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "m.tflite").write_bytes(data.draw(spoilt_bytes(shipped.read_bytes(), head=60_000)))
    code, said = ended(lambda: prepare(TINY_LLAMA, tflite=str(tmp_path / "m.tflite")))
    assert code in FOUR
    assert "m.tflite" in said or code == 0


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "codes"), [("nothing", {0}), ("one weight", {1, 3})])
def test_a_run_of_spoilt_weights_has_a_record_and_one_of_the_same_weights_passes(
    spoil: str, codes: set[int], miniature: dict[str, Any], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "weights"
    shutil.copytree(miniature["checkpoint"], folder)
    tensors = load_file(folder / "model.safetensors")
    if spoil == "one weight":
        name = next(name for name in tensors if "down_proj" in name)
        tensors[name] = torch.where(torch.arange(tensors[name].shape[1]) == 3, torch.nan, tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "written": "again"})
    few = tmp_path / "few.jsonl"
    few.write_text('{"tokens": [5, 6, 7, 8], "id": "four"}\n')
    options = Options(
        model="tiny_llama", checkpoint=str(folder), stages=("reauthored",), inputs_file=few, out=tmp_path / "runs"
    )
    run, record = pipeline.run(options, Watcher())
    assert record.exit_code in codes
    assert read_run(run)[0].to_json() == record.to_json()  # where NaN is null
