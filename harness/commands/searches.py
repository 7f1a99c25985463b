"""The commands that search: for a recipe, for an input that breaks a tolerance. Each parses, calls and prints.

In: the command line's words. Out: exit codes, as `main.py` lists them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.commands.options import (
    REPORTS,
    Checkpoint,
    Debug,
    Hlfb,
    Inputs,
    JsonFlag,
    KvCacheLen,
    KvLayout,
    Layers,
    MaskAsInput,
    Miniature,
    NoCache,
    OneModel,
    OutFolder,
    Prefill,
    Seed,
    Tolerances,
    file_option,
    recipes_named,
    variant_options,
)
from harness.plain import json_for_a_log, shown


def _console() -> Any:
    from rich.console import Console

    return Console()


def recipe(
    model: OneModel,
    max_kl: Annotated[float | None, typer.Option(metavar="NATS", help="The mean KL that the file may cost.")] = None,
    max_mb: Annotated[float | None, typer.Option(metavar="MB", help="The size that the file may have.")] = None,
    quantize: Annotated[
        str, typer.Option(metavar="RECIPE,...", help="What is mixed, beside float32: modes, names or JSON files.")
    ] = "dynamic_int8,weight_only_int8,dynamic_int4_block32",
    checkpoint: Checkpoint = None,
    miniature: Miniature = False,
    layers: Layers = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to measure on; may be repeated.")] = None,
    inputs: Inputs = None,
    seed: Seed = 0,
    out: OutFolder = REPORTS,
    no_cache: NoCache = False,
    timeout: Annotated[float, typer.Option(help="Seconds that one process may take.")] = 3600.0,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Find the smallest quantised file that keeps a budget of KL, or the best one of a size.

    Each layer gets its own recipe; every candidate is a real file that runs on XNNPACK.
    """
    from harness.commands.progress import watcher
    from harness.commands.run import refresh_index
    from harness.errors import ProcessLostError
    from harness.pipeline.options import Options
    from harness.recipe import command
    from harness.render.recipe_search import print_search
    from harness.system.temporary import use_own_temporary_folder

    run_options = Options(
        model=model,
        checkpoint=checkpoint,
        miniature=miniature,
        layers=layers,
        prompts=tuple(prompt or ()),
        inputs_file=inputs,
        quantize=recipes_named(quantize),
        seed=seed,
        out=out,
        no_cache=no_cache,
        timeout=timeout,
    )
    use_own_temporary_folder()
    try:
        with watcher() as progress:
            folder, found = command.search_recipe(command.SearchOptions(run_options, max_kl, max_mb), progress)
    except ProcessLostError as error:
        print(f"edge-parity: {shown(str(error))}", file=sys.stderr)
        raise typer.Exit(3) from None
    refresh_index(out)
    if as_json:
        print(json_for_a_log(found.model_dump_json()))
    else:
        recipe_file = folder / command.WINNER_FILE
        judge = command.judge_command(run_options, recipe_file)
        print_search(found, folder / command.PAGE_FILE, recipe_file, judge, _console())
    raise typer.Exit(0 if found.winner else 1)


def fuzz(
    model: OneModel,
    hop: Annotated[
        str | None, typer.Option(metavar="A->B", help="Look at this hop alone; it loads fewer stages.")
    ] = None,
    laws: Annotated[bool, typer.Option("--laws", help="Look for what breaks a law, which needs no reference.")] = False,
    max_examples: Annotated[int, typer.Option(help="Inputs to try.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    out: Annotated[
        Path | None, file_option(metavar="FILE.jsonl", help="For the input; else reports/MODEL/fuzz-SEED.jsonl.")
    ] = None,
    checkpoint: Checkpoint = None,
    tflite: Annotated[Path | None, file_option(help="Search with this flatbuffer instead of converting.")] = None,
    miniature: Miniature = False,
    layers: Layers = None,
    hlfb: Hlfb = None,
    kv_layout: KvLayout = None,
    mask_as_input: MaskAsInput = None,
    prefill: Prefill = None,
    kv_cache_len: KvCacheLen = None,
    tolerances: Tolerances = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a stage may take to load, and for an input.")] = 3600.0,
    debug: Debug = False,
) -> None:
    """Search for an input that breaks a tolerance, make it as small as it gets, and save it for 'run --inputs'."""
    from harness.commands.progress import watcher
    from harness.fuzz import command
    from harness.pipeline.options import Options
    from harness.render.fuzz import print_outcome
    from harness.system.temporary import use_own_temporary_folder

    options = Options(
        model=model,
        checkpoint=checkpoint,
        tflite=tflite,
        miniature=miniature,
        layers=layers,
        variant=variant_options(hlfb, kv_layout, mask_as_input, prefill, kv_cache_len),
        tolerances=tolerances,
        out=REPORTS,
        timeout=timeout,
    )
    use_own_temporary_folder()
    with watcher() as progress:
        outcome = command.fuzz(command.FuzzOptions(options, hop, max_examples, seed, out, laws), progress)
    print_outcome(outcome, _console())
    raise typer.Exit(outcome.exit_code)
