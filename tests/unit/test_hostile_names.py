"""Names that act on a terminal, a log or a page are shown as the text that they are."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from harness.commands import exits
from harness.commands.progress import PlainProgress
from harness.plain import brief, shown, shown_cell
from harness.render.console import cells, line, new_table, wrapped

HOSTILE = "a\x1b[2Jb\u202ec\u061cd\u2028e\r\n::error::f ##[error]g"


def test_what_is_shown_is_one_line_that_no_terminal_and_no_log_obeys() -> None:
    said = shown(HOSTILE)
    assert not set(said) & set("\x1b\u202e\u061c\u2028\r\n")
    assert "##[" not in said
    assert shown("  ::error::x") == "  : :error::x"
    assert shown("::stop-commands::x").startswith(": :")
    assert shown("tests/a.py::test  b") == "tests/a.py::test  b"
    assert shown_cell("a\n::b") == "a\n: :b"


def test_every_way_to_the_terminal_takes_hostile_names(capsys: pytest.CaptureFixture[str]) -> None:
    progress = PlainProgress()
    progress.model(HOSTILE, 1, 2)
    progress.started(HOSTILE)
    exits.warn(HOSTILE)
    with pytest.raises(SystemExit):
        exits.fail(HOSTILE)
    console = Console(width=60)
    line(console, HOSTILE)
    wrapped(console, HOSTILE, indent=0)
    table = new_table(HOSTILE, [("a", False)])
    table.add_row(*cells(HOSTILE))
    console.print(table)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not set(text) & set("\x1b\u202e\u061c\u2028\r")
        assert "##[" not in text
        assert not [each for each in text.splitlines() if each.lstrip().startswith("::")]
    assert len(err.splitlines()) == 4


def test_json_on_stdout_holds_no_command_and_means_the_same() -> None:
    from harness.plain import json_for_a_log

    text = json.dumps({"a ##[error]b": ["##[group]"]})
    assert "##[" not in json_for_a_log(text)
    assert json.loads(json_for_a_log(text)) == json.loads(text)


def test_values_of_any_size_are_said_in_brief() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert brief(1 << 100_000) == "a number of 100001 bits"
    assert brief(deep) == "a list nested too deeply"
    assert brief("x" * 1000, 20) == "'" + "x" * 16 + "..."
    assert brief(4.5) == "4.5"
