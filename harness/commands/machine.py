"""`edge-parity doctor`: parse, call and print; and what it builds.

In: the command line's words. Out: exit codes, as `main.py` lists them.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from harness.commands.options import Debug, JsonFlag
from harness.plain import json_for_a_log, shown


def doctor(
    install_flex: Annotated[
        bool,
        typer.Option(
            "--install-flex",
            help="Build the environment for files that take and give text: 2 GB in the cache, from a package index.",
        ),
    ] = False,
    as_json: JsonFlag = False,
    debug: Debug = False,
) -> None:
    """Versions, weights, disk and memory: what will and will not work here, and how to fix it."""
    from rich.console import Console

    from harness.commands import doctor as checks

    if install_flex:
        print(shown(install()), file=sys.stderr if as_json else sys.stdout)
        if not as_json:
            return
    found = checks.examine()
    if as_json:
        print(json_for_a_log(checks.as_json(found)))
    else:
        checks.print_checks(found, Console())
    raise typer.Exit(0 if checks.works(found) else 1)


def install() -> str:
    """Build the environment with Flex, unless it is there and whole. Returns where it is, in a line.

    Raises UsageError where it cannot be built.
    """
    from harness.commands.progress import watcher
    from harness.store.cache import Cache
    from harness.store.flex import FLEX, RUNTIME, build
    from harness.system.temporary import use_own_temporary_folder

    use_own_temporary_folder()
    with watcher() as progress:
        progress.started(FLEX)
        folder, made = build(Cache.standard(), lambda done, total, what: progress.progress(FLEX, done, total, what))
    return f"{FLEX}    {folder}: {RUNTIME}, {'built' if made else 'which was there already'}"
