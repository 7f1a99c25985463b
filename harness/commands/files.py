"""The commands that take files of any model. Each parses, calls and prints.

In: the command line's words. Out: exit codes, as `main.py` lists them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import Debug, JsonFlag
from harness.plain import json_for_a_log


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .tflite file, of any model.")],
    runtimes: Annotated[
        bool, typer.Option("--runtimes/--no-runtimes", help="Ask the runtimes here which operators they delegate.")
    ] = True,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """What is in a .tflite file: signatures, operators, types, sizes, and what the runtimes here make of it."""
    from rich.console import Console

    from harness.commands.progress import watcher
    from harness.inspection.inspect import ask_runtimes, read_contents
    from harness.render.contents import print_contents, print_delegated
    from harness.system.temporary import use_own_temporary_folder

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
