"""What `edge-parity run` does around the runs: one or several in a row, their list, annotations, what is printed.

In: names and options. Out: files beside the runs, lines on stdout and stderr, an exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.exits import interrupted, warn
from harness.errors import UsageError
from harness.plain import json_for_a_log

if TYPE_CHECKING:
    from harness.pipeline.options import Options
    from harness.record.record import Record


@dataclass(frozen=True)
class OutputOptions:
    """What the user wants to see: JSON alone, annotations for GitHub Actions."""

    as_json: bool
    github: bool


def run_one(name: str, options: Options, shown: OutputOptions) -> int:
    """Run a model, show what came of it, and give the exit code."""
    from harness.commands.progress import watcher
    from harness.pipeline import run as pipeline
    from harness.system.temporary import use_own_temporary_folder

    use_own_temporary_folder()
    with watcher() as progress:
        folder, record = pipeline.run(options, progress)
    refresh_index(options.out)
    if shown.github:
        _annotate(name, record, folder, "", shown.as_json)
    if shown.as_json:
        print(json_for_a_log(record.to_json()))
    else:
        _summarise(folder)
    return record.exit_code


def run_several(
    names: Sequence[str], options: Callable[[str], Options], out: Path, shown: OutputOptions, every: bool
) -> int:
    """Run the models one after the other, say what came of each, and give the worst exit code.

    every: whether they are all there are, so that it is said what is left out.
    """
    from harness.commands.batch import ModelOutcome, run_each, worst_exit
    from harness.commands.progress import watcher
    from harness.pipeline import run as pipeline
    from harness.pipeline.options import check
    from harness.system.temporary import use_own_temporary_folder

    for name in names:  # what is wrong with all of them is said once, before the first one runs for minutes
        check(options(name))
    outcomes: list[ModelOutcome] = []

    def run_next(model: str) -> tuple[Path, Record]:
        progress.model(model, len(outcomes) + 1, len(names))
        return pipeline.run(options(model), progress)

    try:
        use_own_temporary_folder()
        with watcher() as progress:
            for outcome in run_each(names, run_next):
                outcomes.append(outcome)
                progress.outcome(outcome)
                refresh_index(out)
    except KeyboardInterrupt:
        interrupted(f"stages ended; {len(outcomes)} of {len(names)} models were done, their runs are in {out}")
    if shown.github:
        for outcome in outcomes:
            _annotate(outcome.model, outcome.record, outcome.folder, outcome.error, shown.as_json)
    if shown.as_json:
        print(json_for_a_log("[" + ",\n".join(each.record.to_json() for each in outcomes if each.record) + "]"))
    else:
        from rich.console import Console

        from harness.render.batch import print_outcomes

        print_outcomes(outcomes, out, _further_entries() if every else 0, Console())
    return worst_exit(outcomes)


def _annotate(model: str, record: Record | None, folder: Path | None, error: str, as_json: bool) -> None:
    """Annotations on stdout, where JSON leaves it free: Actions reads both streams."""
    from harness.render import github
    from harness.render.markdown import summary
    from harness.spec.find import find_spec

    try:
        file = github.shown_path(find_spec(model).file, Path.cwd())
    except UsageError:
        file = model
    lines = [github.not_run(model, file, error)] if record is None else github.workflow_commands(record, file)
    print("\n".join(lines), file=sys.stderr if as_json else sys.stdout, flush=True)
    step = os.environ.get(github.STEP_SUMMARY)
    if step and record is not None and folder is not None:
        try:
            github.append_summary(Path(step), summary(record, folder))
        except OSError as problem:
            warn(f"{step} was not written: {problem.strerror}")


def _further_entries() -> int:
    """Registered models that --all leaves out: the further ones of each file."""
    from harness.spec.find import main_models, registered

    return len(registered()) - len(main_models())


def refresh_index(out: Path) -> None:
    """Write the list of all runs again. The run itself is there already: a full disk here costs the list alone."""
    from harness.render.index import write_index

    try:
        write_index(out)
    except OSError as error:
        warn(f"{out / 'index.html'} was not written: {error.strerror}")


def _summarise(folder: Path) -> None:
    from rich.console import Console

    from harness.record.record import read_run
    from harness.render.terminal import print_summary

    print_summary(*read_run(folder), folder, Console())
