"""The commands that take files of any model. Each parses, calls and prints.

In: the command line's words. Out: exit codes, as `main.py` lists them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import REPORTS, Debug, JsonFlag, OutFolder, file_option
from harness.errors import UsageError
from harness.plain import json_for_a_log, shown


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

    from harness.bundle.reader import form_of
    from harness.commands.progress import watcher
    from harness.inspection.inspect import ask_runtimes, read_contents
    from harness.render.contents import print_contents, print_delegated
    from harness.system.temporary import use_own_temporary_folder

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
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it: another one of the same kind.")],
    inputs: Annotated[
        Path | None, file_option(metavar="FILE.npz", help="An array for each input of the signatures; else drawn.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of inputs that are drawn.")] = 0,
    out: OutFolder = REPORTS,
    html: Annotated[Path | None, file_option("--html", metavar="FILE", help="Write it as a page as well.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one file may take on one set of kernels.")] = 3600.0,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Are two .tflite files, or two folders of traces, the same, and if not, where do they part?"""
    from rich.console import Console

    from harness.commands.progress import watcher
    from harness.pairs.compare import compare_files
    from harness.pairs.folders import compare_folders, is_trace_folder
    from harness.render.pair import print_pair, write_pair
    from harness.store.run_folder import check_target
    from harness.system.temporary import use_own_temporary_folder

    if html is not None:
        check_target(html, "--html", "compare.html")
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"--seed {seed} is not a whole number from 0 on; give another one")
    if is_trace_folder(Path(a)) and is_trace_folder(Path(b)):
        found = compare_folders(Path(a), Path(b))
    elif _are_files(a, b):
        use_own_temporary_folder()
        with watcher() as progress:
            found = compare_files(Path(a), Path(b), inputs, seed, progress, timeout)
    else:
        _compare_runs(a, b, out, html, as_json)
        return
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        write_pair(html, found)
    if as_json:
        print(json_for_a_log(found.model_dump_json(indent=1)))
    else:
        print_pair(found, Console())
        if html is not None:
            print(shown(f"page    {html}"))
    raise typer.Exit(found.exit_code)


def import_traces(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Traces of a device, as docs/traces.md says.")],
    run: Annotated[
        str, typer.Option("--run", metavar="RUN", help="Run that kept its traces: folder, MODEL, MODEL@ID.")
    ],
    out: OutFolder = REPORTS,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Make traces from outside a stage of a run: checked, compared, judged, and written as a new run beside it."""
    from harness.commands.run import refresh_index
    from harness.pairs.importing import import_traces as import_into
    from harness.record.record import read_run
    from harness.record.runs import find_run
    from harness.render.terminal import print_summary

    found = find_run(_run_called(run, out), out)
    written, record = import_into(folder, found)
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


def _are_files(a: str, b: str) -> bool:
    """Whether both are files. Raises UsageError for a file and something else."""
    files = [not name.endswith("@latest") and name != "latest" and not Path(name).is_dir() for name in (a, b)]
    if files[0] != files[1]:
        one, other = (a, b) if files[0] else (b, a)
        raise UsageError(f"{one} is no run, and {other} is no file; give two .tflite files, or two runs")
    return files[0]


def _compare_runs(a: str, b: str, out: Path, html: Path | None, as_json: bool) -> None:
    """As `diff` does."""
    from rich.console import Console

    from harness.compare.runs import compare_runs
    from harness.record.record import read_run
    from harness.record.runs import find_run
    from harness.render.diff_page import write_diff
    from harness.render.terminal import print_diff

    if as_json:
        raise UsageError(
            "--json belongs to two files; 'edge-parity diff' shows two runs, and their parity.json is JSON"
        )
    found = compare_runs(*read_run(find_run(a, out)), *read_run(find_run(b, out)))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        write_diff(html, found)
    print_diff(found, Console())
