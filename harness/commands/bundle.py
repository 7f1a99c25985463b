"""`edge-parity bundle`: parse, call and print.

In: the command line's words. Out: exit codes, as `main.py` lists them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import (
    REPORTS,
    Checkpoint,
    Debug,
    JsonFlag,
    KvCacheLen,
    KvLayout,
    Layers,
    MaskAsInput,
    Miniature,
    Prefill,
    file_option,
    recipes_named,
    variant_options,
)
from harness.errors import UsageError
from harness.plain import json_for_a_log, shown

if TYPE_CHECKING:
    from harness.pipeline.options import Options


def bundle(
    what: Annotated[
        str, typer.Argument(metavar="MODEL|FILE", help="A model to bundle, or a .litertlm or .task to check.")
    ],
    check: Annotated[str | None, typer.Option("--check", metavar="MODEL", help="The model that FILE is to be.")] = None,
    out: Annotated[
        Path | None, file_option("--out", metavar="FILE", help="Write MODEL as this .litertlm or .task.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="The recipe of the flatbuffer, where it is quantised.")
    ] = None,
    checkpoint: Checkpoint = None,
    tflite: Annotated[Path | None, file_option(help="Bundle this flatbuffer instead of converting.")] = None,
    miniature: Miniature = False,
    layers: Layers = None,
    kv_layout: KvLayout = None,
    mask_as_input: MaskAsInput = None,
    prefill: Prefill = None,
    kv_cache_len: KvCacheLen = None,
    runs: Annotated[Path, file_option("--runs", metavar="FOLDER", help="Where the runs are that judged it.")] = REPORTS,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that one process may take.")] = 3600.0,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Write a model as a bundle that apps load (--out), or check that a bundle is the model it is to be (--check).

    A check asks the engine that apps use, and what Hugging Face makes of the same texts.
    """
    from harness.errors import ProcessLostError
    from harness.pipeline.options import Options
    from harness.system.temporary import use_own_temporary_folder

    if (check is None) == (out is None):
        both = "both" if check else "neither"
        raise UsageError(
            f"bundle {what} has {both} of --check and --out; write a model with --out FILE, or check a file with "
            "--check MODEL"
        )
    options = Options(
        model=check or what,
        checkpoint=checkpoint,
        tflite=tflite,
        miniature=miniature,
        layers=layers,
        variant=variant_options(None, kv_layout, mask_as_input, prefill, kv_cache_len),
        quantize=recipes_named(quantize),
        timeout=timeout,
    )
    if len(options.quantize) > 1:
        raise UsageError(f"--quantize {quantize}: a bundle holds one file; give one recipe")
    use_own_temporary_folder()
    try:
        code = _check(Path(what), options, runs, as_json) if out is None else _make(options, out, runs, as_json)
    except ProcessLostError as error:
        print(f"edge-parity: {shown(str(error))}", file=sys.stderr)
        raise typer.Exit(3) from None
    raise typer.Exit(code)


def _check(file: Path, options: Options, runs: Path, as_json: bool) -> int:
    from rich.console import Console

    from harness.bundling.check import CheckOptions, check_bundle
    from harness.commands.progress import watcher
    from harness.render.bundle import print_bundle_report

    if options.tflite is not None or options.variant.given():
        given = options.variant.given() or ["--tflite"]
        raise UsageError(f"{given[0]} says what to put into a bundle, and --check reads one; leave it out")
    with watcher() as progress:
        report = check_bundle(CheckOptions(file, options, runs), progress)
    if as_json:
        print(json_for_a_log(report.model_dump_json(indent=1)))
    else:
        print_bundle_report(report, Console())
    return report.exit_code


def _make(options: Options, target: Path, runs: Path, as_json: bool) -> int:
    from rich.console import Console

    from harness.bundling.judged import judged_run
    from harness.bundling.make import make_bundle
    from harness.commands.progress import watcher
    from harness.inspection.bundle import contents_of_bundle
    from harness.render.bundle import print_bundle, print_made

    with watcher() as progress:
        made = make_bundle(options, target, progress)
    found = contents_of_bundle(made.bundle)
    if as_json:
        print(json_for_a_log(found.model_dump_json(indent=1)))
        return 0
    console = Console()
    print_bundle(found, console)
    run = judged_run(made.sha256, made.model, runs)
    print_made(made.notes, f"{run.folder.name}: {run.record.verdict}" if run else "", made.judge, made.check, console)
    return 0
