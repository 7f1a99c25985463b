"""The commands that take files of any model. Each parses, calls and prints.

In: the command line's words. Out: exit codes, as `main.py` lists them.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import REPORTS, Debug, JsonFlag, OutFolder, file_option
from harness.errors import UsageError
from harness.plain import json_for_a_log, shown

if TYPE_CHECKING:
    from harness.pairs.compare import Exports


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .tflite file of any model, or a .litertlm or .task.")],
    runtimes: Annotated[
        bool, typer.Option("--runtimes/--no-runtimes", help="Ask the runtimes here which operators they delegate.")
    ] = True,
    extract: Annotated[
        Path | None, file_option(metavar="FOLDER", help="Write what a bundle holds as files of their own.")
    ] = None,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """What is in a .tflite file: signatures, operators, types, sizes, and what the runtimes here make of it.

    Of a bundle its sections and its metadata too.
    """
    from rich.console import Console

    from harness.bundle.naming import ending_word

    word = ending_word(file)  # before anything heavy is imported

    from harness.bundle.reader import form_of
    from harness.commands.progress import watcher
    from harness.inspection.inspect import ask_runtimes, read_contents
    from harness.render.contents import print_contents, print_delegated
    from harness.system.temporary import use_own_temporary_folder

    if word:
        print(shown(f"edge-parity: {file}: {word}"), file=sys.stderr)
    if form_of(file) is not None:
        _inspect_bundle(file, runtimes, extract, as_json)
        return
    if extract is not None:
        raise UsageError(f"--extract is of bundles, and {file} is none; leave it out")
    model, found = read_contents(file)
    console = Console()
    if not as_json:
        print_contents(found, console)
    if runtimes:
        use_own_temporary_folder()
        with watcher() as progress:
            ask_runtimes(model, found, progress)
    if as_json:
        print(json_for_a_log(found.model_dump_json(indent=1)))
    else:
        print_delegated(found, console)


def _inspect_bundle(file: Path, runtimes: bool, extract: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from harness.bundle.reader import read_bundle
    from harness.commands.progress import watcher
    from harness.inspection.bundle import contents_of_bundle, extracted, read_flatbuffer, write_parts
    from harness.inspection.inspect import ask_runtimes
    from harness.render.bundle import print_bundle
    from harness.render.contents import print_contents, print_delegated
    from harness.system.temporary import use_own_temporary_folder

    bundle = read_bundle(file)
    found, console = contents_of_bundle(bundle), Console()
    if not as_json:
        print_bundle(found, console)
    use_own_temporary_folder()
    with extracted(bundle) as files:
        for section, path in files:
            model, contents = read_flatbuffer(bundle, section, path)
            if not as_json:
                print_contents(contents, console)
            if runtimes:
                with watcher() as progress:
                    ask_runtimes(model, contents, progress)
            if not as_json:
                print_delegated(contents, console)
            found.flatbuffers.append(contents)
    if as_json:
        print(json_for_a_log(found.model_dump_json(indent=1)))
    for written in write_parts(bundle, extract) if extract is not None else ():
        if not as_json:
            print(shown(f"wrote   {written}"))


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A .tflite file of any model, a folder of traces, or a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it, of any of these kinds.")],
    inputs: Annotated[
        Path | None,
        file_option(
            metavar="FILE.npz|jsonl", help='An array for each input, or lines of {"tokens": [...]}; else drawn.'
        ),
    ] = None,
    signature: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Compare this signature alone; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of inputs that are drawn.")] = 0,
    out: OutFolder = REPORTS,
    html: Annotated[Path | None, file_option("--html", metavar="FILE", help="Write it as a page as well.")] = None,
    explorer: Annotated[
        Path | None, file_option("--explorer", metavar="DIR", help="Write both graphs for 'edge-parity explore DIR'.")
    ] = None,
    repro: Annotated[
        Path | None,
        file_option("--repro", metavar="DIR", help="Write the first difference and a script that shows it."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one file may take on one set of kernels.")] = 3600.0,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Are two files, folders of traces or runs the same, in any mix, and if not, where do they part?"""
    from rich.console import Console

    from harness.commands.progress import watcher
    from harness.pairs.compare import FileOptions
    from harness.pairs.mixed import RUN, TRACES, compare_any, given
    from harness.render.pair import print_pair, write_pair
    from harness.store.run_folder import check_target
    from harness.system.temporary import use_own_temporary_folder

    if html is not None:
        check_target(html, "--html", "compare.html")
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"--seed {seed} is not a whole number from 0 on; give another one")
    sides = given(a, out), given(b, out)
    if {side.kind for side in sides} == {RUN}:
        _compare_runs(sides[0].path, sides[1].path, html, as_json)
        return
    use_own_temporary_folder()
    exports = _exports(explorer, repro)
    with watcher() as progress:
        found = compare_any(*sides, FileOptions(inputs, seed, tuple(signature or ()), timeout), progress, exports)
    found.command = _compare_words(a, b, inputs, signature or [], seed)
    if found.first_fault is not None and all(side.kind != TRACES for side in sides):
        script = repro / "repro.py" if repro is not None else None
        written = script is not None and script.is_file()
        found.shows = shlex.join(["python", str(script)]) if written else f"{found.command} --repro DIR"
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        write_pair(html, found)
    if as_json:
        print(json_for_a_log(found.model_dump_json(indent=1)))
    else:
        print_pair(found, Console())
        if html is not None:
            print(shown(f"page    {html}"))
        for export in exports:
            print(shown(export.said))
    raise typer.Exit(found.exit_code)


def _compare_words(a: str, b: str, inputs: Path | None, signatures: list[str], seed: int) -> str:
    """The command that compares them again, as a shell takes it."""
    words = ["edge-parity", "compare", a, b, *(["--inputs", str(inputs)] if inputs is not None else [])]
    words += [word for name in signatures for word in ("--signature", name)]
    return shlex.join([*words, *(["--seed", str(seed)] if seed else [])])


def _exports(explorer: Path | None, repro: Path | None) -> list[Exports]:
    """What is written while the files' tensors are there. Raises UsageError for a folder that holds something."""
    from harness.pairs.explorer import Explorer
    from harness.pairs.repro import Repro
    from harness.store.run_folder import check_new_folder

    found: list[Exports] = []
    if explorer is not None:
        check_new_folder(explorer, "--explorer")
        found.append(Explorer(explorer))
    if repro is not None:
        check_new_folder(repro, "--repro")
        found.append(Repro(repro))
    return found


def import_traces(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]FOLDER...", help="Traces of a device, as docs/traces.md says; a stage each."),
    ],
    run: Annotated[
        str, typer.Option("--run", metavar="RUN", help="Run that kept its traces: folder, MODEL, MODEL@ID.")
    ],
    out: Annotated[
        Path | None,
        file_option("--out", metavar="FOLDER", help="Folder of the runs; else the run's own, for a MODEL reports/."),
    ] = None,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Make traces from outside stages of a run: checked, compared, judged, and written as a new run beside it."""
    from harness.pairs.trace_folder import TraceFolder

    given_folders = [TraceFolder.parse(folder) for folder in folders]
    for each in given_folders:  # before anything heavy is imported
        each.check()

    from harness.commands.run import refresh_index
    from harness.pairs.importing import import_traces as import_into
    from harness.record.record import read_run
    from harness.record.runs import find_run
    from harness.render.terminal import print_summary

    runs = REPORTS if out is None else out
    found = find_run(_run_called(run, runs), runs)
    written, record = import_into(given_folders, found, out)
    refresh_index(written.parent.parent)
    if as_json:
        print(json_for_a_log(record.to_json()))
    else:
        from rich.console import Console

        print_summary(*read_run(written), written, Console())
    raise typer.Exit(record.exit_code)


def _run_called(run: str, out: Path) -> str:
    """MODEL as its latest run, MODEL@ID as that run's folder; other names as they are."""
    model, at, run_id = run.rpartition("@")
    if at and run_id != "latest" and (out / model / run_id).is_dir():
        return str(out / model / run_id)
    if not at and run != "latest" and not Path(run).exists() and "/" not in run:
        return f"{run}@latest"
    return run


def _compare_runs(a: Path, b: Path, html: Path | None, as_json: bool) -> None:
    """As `diff` does."""
    from rich.console import Console

    from harness.compare.runs import compare_runs
    from harness.record.record import read_run
    from harness.render.diff_page import write_diff
    from harness.render.terminal import print_diff

    if as_json:
        raise UsageError("--json is not for two runs, whose parity.json is JSON; leave it out")
    found = compare_runs(*read_run(a), *read_run(b))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        write_diff(html, found)
    print_diff(found, Console())
