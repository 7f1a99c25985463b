"""What an option is called, takes and means, for every command that has it.

In: nothing. Out: annotated types for typer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.commands.exits import show_tracebacks

if TYPE_CHECKING:
    from harness.names.recipes import Recipe
    from harness.names.variant import VariantOptions


def file_option(*names: str, metavar: str = "PATH", **more: Any) -> Any:
    """An option that takes a path. An empty one, which Python would take for this folder, is refused."""
    return typer.Option(*names, metavar=metavar, parser=_path, **more)


def _path(text: str | Path) -> Path:
    if not str(text).strip():
        raise typer.BadParameter("it is empty; give a path, or leave the option out.")
    return Path(text)


REPORTS = Path("reports")


def variant_options(
    hlfb: bool | None, kv_layout: str | None, mask_as_input: bool | None, prefill: str | None, kv_cache_len: int | None
) -> VariantOptions:
    """What these options say of the conversion. Raises UsageError."""
    from harness.names.variant import VariantOptions, parse_prefill

    lengths = parse_prefill(prefill) if prefill is not None else None
    return VariantOptions(hlfb, kv_layout, mask_as_input, lengths, kv_cache_len)


def recipes_named(quantize: str | None) -> tuple[Recipe, ...]:
    """The recipes of `--quantize`; none where it is not given. Raises UsageError."""
    from harness.flatbuffer.quantise import known_recipe
    from harness.names.recipes import parse_recipes
    from harness.system.reading import read_text

    return parse_recipes(quantize, known_recipe, read_text) if quantize is not None else ()


def stages_asked(stages: str | None) -> tuple[str, ...]:
    """The stages of `--stages`; those of every run of float32 where it is not given."""
    from harness.names.stages import float32_stages

    return tuple(part.strip() for part in stages.split(",")) if stages is not None else float32_stages()


Models = Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help="Names from 'list', or file.py[:NAME].")]
OneModel = Annotated[str, typer.Argument(metavar="MODEL", help="A name from 'list', or file.py[:NAME].")]
EveryModel = Annotated[bool, typer.Option("--all", help="The first model of every file in models/.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, 'latest' or 'MODEL@latest'.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
OutFolder = Annotated[Path, file_option("--out", help="Folder of the runs.")]

Debug = Annotated[
    bool,
    typer.Option("--debug", callback=lambda wanted: show_tracebacks(wanted), help="Show the traceback of a fault."),
]

Spec = Annotated[
    str | None,
    typer.Option("--spec", metavar="MODEL", help="The model's declaration, where the run's was not run here."),
]

Checkpoint = Annotated[str | None, typer.Option(help="Folder in Hugging Face format, or a hub id.")]
RouteName = Annotated[
    str | None,
    typer.Option("--route", metavar="NAME", help="MODEL is a folder in Hugging Face format: export-hf exports it."),
]
Miniature = Annotated[bool, typer.Option("--miniature", help="Small seeded random weights.")]
Layers = Annotated[
    int | None, typer.Option(help="Only the first N layers, at full width; with --miniature, layers of the miniature.")
]

Hlfb = Annotated[
    bool | None, typer.Option("--hlfb/--no-hlfb", help="Convert norms and attention as composites or as plain ops.")
]
KvLayout = Annotated[
    str | None, typer.Option(metavar="NAME", help="KV cache layout to convert with: default or transposed.")
]
MaskAsInput = Annotated[
    bool | None, typer.Option("--mask-as-input/--mask-inside", help="Attention mask made by runtime or graph.")
]
KvCacheLen = Annotated[
    int | None, typer.Option("--kv-cache-len", help="Positions of the KV cache; else those declared.")
]
Prefill = Annotated[str | None, typer.Option(help="Lengths of the prefill signatures, e.g. 8,32.")]

Stages = Annotated[str | None, typer.Option(help="Comma-separated stages; oracle and hf always run.")]
Inputs = Annotated[Path | None, file_option(help='JSONL: {"text": ...}, {"tokens": [...]} or {"turns": [...]} a line.')]
Seed = Annotated[int, typer.Option(help="Of random tokens and of a miniature's weights.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor fill the cache.")]
StageTimeout = Annotated[float, typer.Option("--timeout", help="Seconds that one stage may take.")]

Chat = Annotated[
    bool, typer.Option("--chat", help="Put each --prompt into the tokenizer's chat template, as an app does.")
]
Generate = Annotated[
    int, typer.Option("--generate", metavar="N", help="Generate N tokens in every stage too, greedily, side by side.")
]
Decode = Annotated[
    int, typer.Option("--decode", metavar="N", help="Decode N tokens that hf draws, step by step, in every stage.")
]
Edges = Annotated[bool, typer.Option("--edges", help="Run the edges of the context too, each as an input of its own.")]

Speed = Annotated[bool, typer.Option("--speed", help="Measure how fast each stage is, alone, after everything else.")]
SpeedThreads = Annotated[
    int | None, typer.Option("--speed-threads", metavar="N", help="Threads of --speed; else one for each core.")
]

Tolerances = Annotated[Path | None, file_option(help="TOML with [[rule]] tables.")]
