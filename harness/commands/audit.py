"""`edge-parity audit`: from names to audits.

In: what the command line said. Out: an `Audit` for each model. The frameworks run in a process of their own, whose
chatter stays off the terminal.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness.audit.report import Audit, AuditRequest, Audits
from harness.errors import TaskFaultError, UsageError
from harness.processes.scheduler import Task, Watcher, run_tasks
from harness.spec.find import find_spec
from harness.weights.sources import check_source


def audit(models: list[str], checkpoint: str | None, watcher: Watcher, timeout: float = 600.0) -> list[Audit]:
    """Audit the models against their published configs, or one against the config of a checkpoint folder.

    Raises UsageError for bad input, and for a single model that cannot be audited.
    """
    refs = [find_spec(model) for model in models]
    if checkpoint is not None:
        if len(refs) > 1:
            raise UsageError("--checkpoint belongs to one model; name one model")
        check_source(checkpoint, config_alone=True)
        if not Path(checkpoint).expanduser().is_dir():
            raise UsageError(f"--checkpoint {checkpoint} is not a folder; an audit reads the config.json of a folder")
    specs = [(str(ref.file.resolve()), ref.variable) for ref in refs]
    folder = str(Path(checkpoint).expanduser().resolve()) if checkpoint else None
    # One process a core: the frameworks are imported once, before the processes part.
    shares = min(os.cpu_count() or 1, len(specs))
    tasks = [
        Task(
            f"audit {share + 1}" if shares > 1 else "audit",
            "harness.audit.job:audit_models",
            AuditRequest(specs=specs[share::shares], checkpoint=folder).model_dump(),
            Audits,
            torch=True,
            timeout=timeout,
        )
        for share in range(shares)
    ]
    audits = _run(tasks, watcher)
    if len(audits) == 1 and audits[0].error:
        raise UsageError(audits[0].error)
    order = {file_and_name: place for place, file_and_name in enumerate(specs)}
    return sorted(audits, key=lambda found: order[(found.file, found.variable)])


def _run(tasks: list[Task], watcher: Watcher) -> list[Audit]:
    audits: list[Audit] = []
    with tempfile.TemporaryDirectory(prefix="edge-parity-") as folder:
        log = Path(folder) / "audit.log"
        for result in run_tasks(tasks, log, watcher, cores=len(tasks)).values():
            answer = result.gave(Audits)
            if answer is None:
                lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
                frames = [line for line in lines if line.startswith("File ")]
                where = frames[-1] if frames else "without a word"
                raise TaskFaultError(f"the audit broke off: {result.detail.split(';')[0]} ({where})")
            audits += answer.audits
    return audits
