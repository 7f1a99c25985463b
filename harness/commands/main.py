"""The command line. Parses, calls one function per command, prints; knows no metric and no framework.

Exit codes: 0 parity holds; 1 it does not; 2 the command or an input is wrong; 3 a stage crashed or timed out;
4 a fault of Edge Parity itself; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.commands import bundle, exits, files, generate, machine, searches
from harness.commands.options import (
    REPORTS,
    Chat,
    Checkpoint,
    Debug,
    Decode,
    Edges,
    EveryModel,
    Generate,
    Hlfb,
    Inputs,
    JsonFlag,
    KvCacheLen,
    KvLayout,
    Layers,
    MaskAsInput,
    Miniature,
    Models,
    NoCache,
    OutFolder,
    Prefill,
    RouteName,
    RunName,
    Seed,
    Spec,
    Speed,
    SpeedThreads,
    Stages,
    StageTimeout,
    Tolerances,
    file_option,
    recipes_named,
    stages_asked,
    variant_options,
)
from harness.errors import UsageError
from harness.plain import json_for_a_log, shown
from harness.system.streams import prepare_streams

app = typer.Typer(
    help="Numerical parity of a language model: Hugging Face, LiteRT-Torch re-authored and TFLite, layer by layer.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _console() -> Any:
    from rich.console import Console

    return Console()


@app.command("list")
def list_models(as_json: JsonFlag = False, debug: Debug = False) -> None:
    """Models, where their weights come from, and whether those are here."""
    from harness.render.catalogue import print_entries
    from harness.spec.catalogue import entries

    found = entries()
    if as_json:
        print(json_for_a_log(json.dumps([entry.as_dict() for entry in found], indent=1)))
    else:
        print_entries(found, _console())


@app.command()
def run(
    models: Models = None,
    every: EveryModel = False,
    route: RouteName = None,
    checkpoint: Checkpoint = None,
    tflite: Annotated[Path | None, file_option(help="Gate this flatbuffer instead of converting.")] = None,
    miniature: Miniature = False,
    layers: Layers = None,
    stages: Stages = None,
    hlfb: Hlfb = None,
    kv_layout: KvLayout = None,
    mask_as_input: MaskAsInput = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE,...",
            help="Quantise too: modes, names, the model's own or JSON files; judged is what it costs and runtimes do.",
        ),
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Measure what each tensor of a recipe costs, one by one.")
    ] = False,
    speed: Speed = False,
    speed_threads: SpeedThreads = None,
    prefill: Prefill = None,
    kv_cache_len: KvCacheLen = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Text to run; may be repeated.")] = None,
    inputs: Inputs = None,
    chat: Chat = False,
    decode: Decode = 0,
    edges: Edges = False,
    generate: Generate = 0,
    laws: Annotated[bool, typer.Option("--laws", help="Check what must hold of each stage with no reference.")] = False,
    text: Annotated[Path | None, file_option(help="Text to measure perplexity on, UTF-8; else one that ships.")] = None,
    seed: Seed = 0,
    tolerances: Tolerances = None,
    out: OutFolder = REPORTS,
    keep_traces: Annotated[bool, typer.Option("--keep-traces", help="Keep every tap as .npy.")] = False,
    no_cache: NoCache = False,
    timeout: StageTimeout = 3600.0,
    github: Annotated[
        bool, typer.Option("--github", help="Annotate for GitHub Actions, and add to the job's summary.")
    ] = False,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Run all versions of a model on the same inputs, compare every layer, and write a report.

    Several models run one after the other; what happens to one stops no other.
    """
    from harness.commands.run import OutputOptions, run_one, run_several
    from harness.pipeline.options import Options

    names = _chosen(models or [], every)
    if route is not None:
        from harness.weights.folder_spec import declared_folder

        names, checkpoint = declared_folder(names, route, checkpoint, miniature=miniature)
    if len(names) > 1 and (checkpoint or tflite):
        raise UsageError("--checkpoint and --tflite belong to one model; name one model")
    chosen, recipes = stages_asked(stages), recipes_named(quantize)
    variant = variant_options(hlfb, kv_layout, mask_as_input, prefill, kv_cache_len)

    def options(model: str) -> Options:
        return Options(
            model=model,
            checkpoint=checkpoint,
            tflite=tflite,
            miniature=miniature,
            layers=layers,
            stages=chosen,
            prompts=tuple(prompt or ()),
            inputs_file=inputs,
            decode=decode,
            edges=edges,
            generate=generate,
            chat=chat,
            text=text,
            variant=variant,
            quantize=recipes,
            sensitivity=sensitivity,
            speed=speed,
            speed_threads=speed_threads,
            laws=laws,
            seed=seed,
            tolerances=tolerances,
            out=out,
            keep_traces=keep_traces,
            no_cache=no_cache,
            timeout=timeout,
        )

    shown = OutputOptions(as_json, github)
    if every or len(names) > 1:
        raise typer.Exit(run_several(names, options, out, shown, every))
    raise typer.Exit(run_one(names[0], options(names[0]), shown))


def _chosen(models: list[str], every: bool, command: str = "run") -> list[str]:
    """The models a command is for: those named, or the first of every file in `models/`."""
    from harness.spec.find import main_models, not_installed

    if every and models:
        raise UsageError(f"--all and {models[0]} contradict each other; give one of them")
    if not every and not models:
        raise UsageError(
            f"no MODEL named; give one of 'edge-parity list', a spec file, or --all. See 'edge-parity {command} --help'"
        )
    if not every:
        return models
    chosen = main_models()
    for name, ref in chosen.items():
        if missing := not_installed(ref):
            print(f"edge-parity: {name} is left out: {missing}", file=sys.stderr)
    return [name for name, ref in chosen.items() if not not_installed(ref)]


@app.command()
def audit(
    models: Models = None,
    every: EveryModel = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="Folder whose config.json takes the published one's place.")
    ] = None,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Compare the published config with the re-authored one, field by field. Needs no weights."""
    from harness.commands.audit import audit as run_audit
    from harness.commands.progress import watcher
    from harness.system.temporary import use_own_temporary_folder

    names = _chosen(models or [], every, "audit")
    use_own_temporary_folder()
    with watcher() as progress:
        audits = run_audit(names, checkpoint, progress)
    if as_json:
        contents = [{**found.model_dump(mode="json"), "verdict": found.verdict} for found in audits]
        print(json_for_a_log(json.dumps(contents if every or len(names) > 1 else contents[0], indent=1)))
    else:
        from harness.render.audit import print_audits

        print_audits(audits, _console())
    raise typer.Exit(max(found.exit_code for found in audits))


@app.command()
def bench(
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Faults of this model only; may be repeated.")
    ] = None,
    faults: Annotated[str, typer.Option(metavar="GLOB", help="Faults whose id or name fits.")] = "*",
    seeds: Annotated[int, typer.Option(help="Seeds of each clean model, for false alarms.")] = 8,
    out: Annotated[Path | None, file_option(help="Write the page of results, as Markdown.")] = None,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Make the catalogue's faults one by one and say which are found, where, and why. Minutes."""
    from harness.bench.command import bench as run_bench
    from harness.bench.page import detection_page
    from harness.bench.terminal import print_report
    from harness.commands.progress import watcher
    from harness.store.run_folder import check_target
    from harness.system.temporary import use_own_temporary_folder

    if out is not None:
        check_target(out, "--out", "detection.md")
    use_own_temporary_folder()
    with watcher() as progress:
        report = run_bench(models or [], faults, seeds, progress)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(detection_page(report), encoding="utf-8")
    if as_json:
        print(json_for_a_log(report.model_dump_json(indent=1)))
    else:
        print_report(report, _console())
    raise typer.Exit(3 if report.errors else int(bool(report.missed or report.alarms)))


@app.command()
def explain(
    run: RunName,
    out: OutFolder = REPORTS,
    spec: Spec = None,
    repro: Annotated[
        Path | None, file_option(metavar="DIR", help="Write the faulty piece, its inputs and a script that shows it.")
    ] = None,
    debug: Debug = False,
) -> None:
    """The first fault of a run: where, whose, why, and what to change."""
    from harness.record.record import read_run
    from harness.record.runs import find_run
    from harness.render.terminal import print_explain

    folder = find_run(run, out)
    record, frame = read_run(folder)
    print_explain(record, frame, _console())
    if repro is not None:
        from harness.commands.progress import watcher
        from harness.explain.pack import pack
        from harness.system.temporary import use_own_temporary_folder

        use_own_temporary_folder()
        with watcher() as progress:
            said = pack(folder, record, repro, progress, spec)
        print(shown(f"repro   {repro}: {said}"))


app.command()(searches.recipe)
app.command()(searches.fuzz)
app.command()(generate.generate)
app.command()(files.inspect)
app.command()(files.compare)
app.command()(bundle.bundle)
app.command("import")(files.import_traces)


@app.command()
def report(run: RunName, out: OutFolder = REPORTS, debug: Debug = False) -> None:
    """Render a run's report, JUnit and Model Explorer files again from its record."""
    from harness.record.record import read_run
    from harness.record.runs import find_run
    from harness.render.files import render_all

    folder = find_run(run, out)
    for path in render_all(folder, *read_run(folder)):
        print(shown(path))


@app.command()
def explore(
    run: RunName,
    hop: Annotated[
        str | None, typer.Option(metavar="A->B", help="This hop; else that of the first fault. In quotes.")
    ] = None,
    level: Annotated[
        str, typer.Option(metavar="tap|op", help="What a node is: a tap, or an operator; operators take longer.")
    ] = "tap",
    port: Annotated[int | None, typer.Option(help="Port on 127.0.0.1; else a free one.")] = None,
    spec: Spec = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open nothing.")] = False,
    out: OutFolder = REPORTS,
    debug: Debug = False,
) -> None:
    """Open a hop in Model Explorer: both graphs side by side, overlays on, at the first fault.

    In place of a run, a folder that 'compare --explorer' wrote.
    """
    from harness.commands.progress import watcher
    from harness.explore.command import ExploreOptions, serve
    from harness.explore.command import explore as explore_run
    from harness.pairs.explorer import is_view, read_view
    from harness.record.runs import find_run

    def say(said: str) -> None:
        print(shown(said), flush=True)

    if is_view(Path(run)):
        if hop is not None or level != "tap" or spec is not None:
            raise UsageError(f"{run} is of two files; --hop, --level and --spec are for runs, leave them out")
        serve(lambda: read_view(Path(run)), port, not no_browser, say)
        return
    explore_run(ExploreOptions(find_run(run, out), hop, level, port, not no_browser, spec), say, watcher)


@app.command()
def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B")],
    out: OutFolder = REPORTS,
    html: Annotated[Path | None, file_option("--html", metavar="FILE", help="Write it as a page as well.")] = None,
    debug: Debug = False,
) -> None:
    """What got better or worse from RUN_A to RUN_B."""
    from harness.compare.runs import compare_runs
    from harness.record.record import read_run
    from harness.record.runs import find_run
    from harness.render.terminal import print_diff
    from harness.store.run_folder import check_target

    if html is not None:
        check_target(html, "--html", "diff.html")
    a, b = find_run(run_a, out), find_run(run_b, out)
    comparison = compare_runs(*read_run(a), *read_run(b))
    if html is not None:
        from harness.render.diff_page import write_diff

        html.parent.mkdir(parents=True, exist_ok=True)
        write_diff(html, comparison)
    print_diff(comparison, _console())
    if html is not None:
        print(shown(f"page    {html}"))


app.command()(machine.doctor)


def main() -> None:
    """Run the command line; whatever goes wrong is one line on stderr and an exit code."""
    prepare_streams()
    exits.end_with(lambda: app(args=sys.argv[1:] or ["--help"], standalone_mode=False))


if __name__ == "__main__":
    main()
