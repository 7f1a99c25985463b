"""The documents say what the code does: every name in them exists, and every name of the code is in them."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from paths import ROOT
from pydantic import BaseModel
from record_factory import KINDS, make_run

from harness.commands.main import app
from harness.judge.rules import load_rules
from harness.record.record import Record
from harness.record.schema import record_schema
from harness.record.tap_row import TAP_COLUMNS
from harness.spec.find import find_spec, registered
from harness.spec.model import GenerativeModel

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        DOCS / f"{name}.md"
        for name in (
            "adding-a-model",
            "architecture",
            "bundles",
            "ci",
            "compare",
            "explore",
            "fuzz",
            "models",
            "python",
            "record",
            "run",
            "what-it-finds",
            "how-it-works",
            "noise-floor",
            "quantisation",
            "local-errors",
            "alignment",
            "blind-spots",
            "tolerances",
            "traces",
            "upstream-defects",
        )
    ),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


def page_ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def python_blocks(page: Path) -> list[str]:
    return [body for language, body in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "python"]


def named_in(page: Path) -> set[str]:
    return set(INLINE.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))))


def commands_in(page: Path) -> list[list[str]]:
    """Every `edge-parity ...` that a page tells to type, in words."""
    text = page.read_text(encoding="utf-8")
    lines = [line.removeprefix("$ ") for _, body in BLOCK.findall(text) for line in body.splitlines()]
    found = [line.split(" #")[0] for line in [*lines, *INLINE.findall(BLOCK.sub("", text))]]
    return [line.split()[1:] for line in found if line.startswith("edge-parity ")]


def command_options() -> dict[str, set[str]]:
    group: Any = typer.main.get_command(app)
    return {
        name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_every_command_and_option_in_a_page_exists(page: Path) -> None:
    known = command_options()
    for words in commands_in(page):
        if words[0].startswith("--"):
            assert words == ["--help"]
            continue
        assert words[0] in known, f"edge-parity {words[0]}"
        options = {word.split("=")[0].strip("[]") for word in words if word.strip("[").startswith("--")}
        assert options <= known[words[0]], f"edge-parity {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_every_option_named_alone_belongs_to_a_command_or_to_the_gate(page: Path) -> None:
    gate = set(re.findall(r'"(--[a-z-]+)"', (ROOT / "conftest.py").read_text(encoding="utf-8")))
    known = set().union(*command_options().values()) | gate
    named = {name.split()[0] for name in named_in(page) if name.startswith("--")}
    assert named <= known


def test_the_workflow_in_the_page_runs_commands_that_exist_and_keeps_the_report() -> None:
    page = (DOCS / "ci.md").read_text(encoding="utf-8")
    (text,) = [body for language, body in BLOCK.findall(page) if language == "yaml"]
    steps = yaml.safe_load(text)["jobs"]["gate"]["steps"]
    known, runs = command_options(), [step["run"].split() for step in steps if "edge-parity" in step.get("run", "")]
    assert len(runs) == 2
    for _, command, *words in runs:
        options = {word for word in words if word.startswith("--")}
        assert {"--github", "--out"} <= options <= known[command]
        models = words[: next(i for i, word in enumerate(words) if word.startswith("--"))]
        assert all(find_spec(model) for model in models)
        assert words[-1] == "parity"
    (kept,) = [step for step in steps if "upload-artifact" in step.get("uses", "")]
    assert (kept["if"], kept["with"]["path"]) == ("always()", "parity/")


def test_every_command_is_in_the_readme() -> None:
    assert {words[0] for words in commands_in(ROOT / "README.md")} >= set(command_options())


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_python_in_a_page_parses(page: Path) -> None:
    for block in python_blocks(page):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    broken = {target for target in targets if "://" not in target and not (page.parent / target).exists()}
    assert broken == set()


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_links_into_a_page_lead_to_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            text = (page.parent / target if target else page).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            known = {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in known, f"{target}#{anchor}"


def test_every_room_of_the_harness_has_its_place_in_the_map() -> None:
    table = (DOCS / "architecture.md").read_text(encoding="utf-8").split("## The rooms of")[1]
    named = {name.split("/")[0] for name in INLINE.findall(table)}
    there = {path.name for path in (ROOT / "harness").iterdir() if not path.name.startswith("__")}
    assert there <= named


def test_the_default_limits_in_the_page_are_those_of_the_rules() -> None:
    lines = (DOCS / "tolerances.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| `float32")]
    shown = {name: [float(cell) for cell in row[2:5]] for row in rows for name in INLINE.findall(row[0])}
    figures = ("excess", "position_excess", "noise_floor")
    rules = {rule.name: rule for rule in load_rules()}
    assert shown == {
        name: [rule.limits[figure] for figure in figures] for name, rule in rules.items() if "excess" in rule.limits
    }
    prices = [line.strip("|").split("|") for line in lines if line.startswith("| `price-")]
    limits = {INLINE.findall(name)[0]: [float(cell) for cell in row] for name, *row in (row[:4] for row in prices)}
    of_a_price = ("kl_mean", "kl_p99", "perplexity_ratio")
    assert limits == {
        name: [rule.limits[figure] for figure in of_a_price] for name, rule in rules.items() if "kl_mean" in rule.limits
    }
    said = {
        "`kernels`: an SNR of at least 3 dB": {"kernels": {"snr_db": 3.0}},
        "`price`: an SNR of at least 1 dB": {"price": {"snr_db": 1.0}, "price-short": {"snr_db": 1.0}},
        "`price-int4`: a cosine of at least 0.1": {"price-int4": {"cosine": 0.1}, "price-int4-short": {"cosine": 0.1}},
    }
    assert set(rules) == {*shown, *limits, *(name for group in said.values() for name in group)}
    for words, group in said.items():
        assert any(words in line for line in lines)
        assert {name: rules[name].limits for name in group} == group


def test_every_entry_of_the_catalogue_has_its_checkpoint_in_the_page_of_models() -> None:
    named = named_in(DOCS / "models.md")
    assert set(registered()) <= named
    assert {
        str(ref.declared["hf_id"]) for ref in registered().values() if "." not in str(ref.declared["hf_id"])
    } <= named


def test_every_field_of_a_model_is_documented() -> None:
    assert {field.name for field in dataclasses.fields(GenerativeModel)} <= named_in(DOCS / "adding-a-model.md")


def test_the_example_is_a_declaration_that_the_command_line_takes(tmp_path: Path) -> None:
    examples = [block for block in python_blocks(DOCS / "adding-a-model.md") if "GenerativeModel(" in block]
    found = []
    for number, example in enumerate(examples):
        file = tmp_path / f"example_{number}.py"
        file.write_text(example, encoding="utf-8")
        found.append(find_spec(str(file)).name)
    assert found == ["my_llama", "own_llama"]


def test_every_column_of_the_taps_is_documented() -> None:
    assert set(TAP_COLUMNS) <= named_in(DOCS / "record.md")


def test_every_key_of_the_record_is_documented() -> None:
    assert keys_of(Record) <= named_in(DOCS / "record.md")


def keys_of(part: type[BaseModel]) -> set[str]:
    """The keys of a class and of all classes in it, as they stand in the file."""
    keys: set[str] = set()
    for name, field in part.model_fields.items():
        keys.add(field.alias or name)
        for inner in parts_in(field.annotation):
            keys |= keys_of(inner)
    return keys


def parts_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for argument in get_args(annotation) for part in parts_in(argument)]


def test_the_schema_is_the_one_the_record_gives() -> None:
    kept = (DOCS / "parity.schema.json").read_text(encoding="utf-8")
    assert kept == record_schema(), "python -m harness.record.schema > docs/parity.schema.json"


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_what_the_schema_describes(kind: str) -> None:
    text = make_run(kind)[0].to_json()
    Record.model_validate_json(text)
    schema = json.loads(record_schema())
    assert violations(json.loads(text), schema, schema["$defs"], "record") == []


TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None),
}  # fmt: skip


def violations(value: Any, schema: dict[str, Any], parts: dict[str, Any], where: str) -> list[str]:
    """What a value breaks of the few words of JSON Schema that ours uses."""
    if "$ref" in schema:
        return violations(value, parts[schema["$ref"].rsplit("/", 1)[1]], parts, where)
    if "anyOf" in schema:
        tried = [violations(value, option, parts, where) for option in schema["anyOf"]]
        return [] if [] in tried else tried[0]
    if "type" in schema and (not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool)):
        return [f"{where} is no {schema['type']}: {value!r}"]
    found = [f"{where} is {value!r}"] if value not in schema.get("enum", [value]) else []
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += violations(item, schema.get("items", {}), parts, f"{where}[{number}]")
    if isinstance(value, dict):
        found += [f"{where} lacks {key}" for key in schema.get("required", []) if key not in value]
        others = schema.get("additionalProperties", True)
        for key, item in value.items():
            inner = schema.get("properties", {}).get(key, others if isinstance(others, dict) else {})
            found += violations(item, inner, parts, f"{where}.{key}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_no_page_names_a_path_of_one_machine(page: Path) -> None:
    assert re.findall(r"(?<![\w.~-])/(?:home|root|work|tmp|mnt)/\S*", page.read_text(encoding="utf-8")) == []


def test_no_sentence_says_is_no_for_is_not_a() -> None:
    """A reader whose first language it is not stops at "42 is no time". What there is no more of may be said so."""
    after = "longer|more|lower|worse|better|larger|nearer|such|other"
    said = re.compile(rf"([Tt]here )?\b(is|are|was|were) no (?!{after})[a-z]+")
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in [*PAGES, *(ROOT / "harness").rglob("*.py"), *(ROOT / "harness").rglob("*.j2")]
        for match in said.finditer(path.read_text(encoding="utf-8"))
        if not match[1]
    }
    assert found == set()
