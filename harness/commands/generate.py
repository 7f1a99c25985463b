"""`edge-parity generate`: parse, call and print.

In: the command line's words. Out: exit codes, as `main.py` lists them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import (
    REPORTS,
    Chat,
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
    Stages,
    StageTimeout,
    file_option,
    recipes_named,
    stages_asked,
    variant_options,
)
from harness.plain import json_for_a_log, shown

TOKENS = 64


def generate(
    model: OneModel,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to go on from; may be repeated.")] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help=f"How many tokens each stage generates at most; {TOKENS} where the KV cache has room for them."
        ),
    ] = None,
    chat: Chat = False,
    inputs: Inputs = None,
    checkpoint: Checkpoint = None,
    tflite: Annotated[Path | None, file_option(help="Generate with this flatbuffer instead of converting.")] = None,
    miniature: Miniature = False,
    layers: Layers = None,
    stages: Stages = None,
    hlfb: Hlfb = None,
    kv_layout: KvLayout = None,
    mask_as_input: MaskAsInput = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="RECIPE,...", help="Generate with quantised files too, as for 'run'.")
    ] = None,
    prefill: Prefill = None,
    kv_cache_len: KvCacheLen = None,
    seed: Seed = 0,
    out: OutFolder = REPORTS,
    no_cache: NoCache = False,
    timeout: StageTimeout = 3600.0,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Generate greedily in every stage, side by side: texts, the first other token, and whether it is a tie.

    After the first other token the comparison goes on with the reference's.
    """
    from rich.console import Console

    from harness.commands.progress import watcher
    from harness.commands.run import refresh_index
    from harness.errors import ProcessLostError
    from harness.pipeline import generation_run
    from harness.pipeline.options import Options
    from harness.render.console import line
    from harness.render.generation import print_generation
    from harness.system.temporary import use_own_temporary_folder

    options = Options(
        model=model,
        checkpoint=checkpoint,
        tflite=tflite,
        miniature=miniature,
        layers=layers,
        stages=stages_asked(stages),
        prompts=tuple(prompt or ()),
        inputs_file=inputs,
        generate=min(TOKENS, kv_cache_len or TOKENS) if tokens is None else tokens,
        generate_option="--tokens",
        chat=chat,
        variant=variant_options(hlfb, kv_layout, mask_as_input, prefill, kv_cache_len),
        quantize=recipes_named(quantize),
        seed=seed,
        out=out,
        no_cache=no_cache,
        timeout=timeout,
    )
    use_own_temporary_folder()
    try:
        with watcher() as progress:
            folder, found, findings = generation_run.generate(options, progress)
    except ProcessLostError as error:
        print(f"edge-parity: {shown(str(error))}", file=sys.stderr)
        raise typer.Exit(3) from None
    refresh_index(out)
    if as_json:
        print(json_for_a_log(found.model_dump_json()))
    else:
        console = Console()
        print_generation(found, console)
        line(console, f"page    {folder / generation_run.PAGE_FILE}")
    raise typer.Exit(3 if found.lost else int(any(finding.severity == "error" for finding in findings)))
