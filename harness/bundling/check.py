"""`edge-parity bundle FILE --check MODEL`: is the bundle the model that it claims to be?

In: a bundle and what names a model. Out: a `BundleReport`. The engine runs in a process of its own, which may crash or
hang: what it was asked is then not checked, and the report says why.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.bundle.reader import read_bundle
from harness.bundle.sections import Bundle
from harness.bundling import content, spoken
from harness.bundling.answers import Answer, add
from harness.bundling.judged import judged_run
from harness.bundling.make import with_layout
from harness.bundling.texts import CONVERSATIONS, PROBE, RANDOM, TEXTS
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.inspection.bundle import contents_of_bundle, extracted, read_flatbuffer
from harness.jobs.prepared import Prepared
from harness.names.codes import FindingCode
from harness.names.stages import FLOAT
from harness.pipeline.options import Options, check
from harness.pipeline.preparing import prepare
from harness.pipeline.work import Work
from harness.processes import server
from harness.processes.scheduler import Task, TaskResult, Watcher, run_tasks
from harness.record.bundle import BundleReport
from harness.stages.litert_lm.engine import engine_version
from harness.stages.litert_lm.examine import Examined, ExamineRequest
from harness.store.cache import Cache
from harness.weights.sources import TOKENIZER_FILES

ENGINE = "litert-lm"
ENGINE_SECONDS = 600.0  # it takes ten or twenty; one that hangs is ended
_EXAMINE = "harness.stages.litert_lm.examine:examine"


@dataclass(frozen=True)
class CheckOptions:
    """model: what names it, as for a run, with the recipe that is declared. runs: where they are."""

    bundle: Path
    model: Options
    runs: Path

    @property
    def recipe(self) -> str:
        return self.model.quantize[0].name if self.model.quantize else FLOAT


def check_bundle(options: CheckOptions, watcher: Watcher) -> BundleReport:
    """Raises UsageError for a file that cannot be read, and for a model that cannot be prepared."""
    bundle = read_bundle(options.bundle)
    report = BundleReport(bundle=contents_of_bundle(bundle), model=options.model.model, engine=engine_version())
    asked = with_layout(options.model)  # as the run that judged it was asked, so that what that prepared serves again
    ref = check(asked)
    with tempfile.TemporaryDirectory(prefix="edge-parity-") as name:
        state = Work(asked, ref, Path(name), Cache.standard(), watcher)
        prepared, _ = prepare(state)
        _check_tokenizer(prepared)
        expected = content.Expected(prepared.model, prepared.dimensions, options.recipe)
        add(report, _read(bundle, report, expected, options.runs))
        task = _task(bundle, prepared, min(options.model.timeout, ENGINE_SECONDS))
        result = run_tasks([task], state.log, watcher)[ENGINE]
    _add_spoken(report, result, prepared)
    return report


def _check_tokenizer(prepared: Prepared) -> None:
    if not any((Path(prepared.checkpoint) / name).is_file() for name in TOKENIZER_FILES):
        raise UsageError(
            f"{prepared.source.name} has no tokenizer, without which no bundle can be checked; give the folder "
            "that has it with --checkpoint"
        )


def _read(bundle: Bundle, report: BundleReport, expected: content.Expected, out: Path) -> list[Answer]:
    """What reading tells; the contents of the flatbuffers are added to the report."""
    found, file = [content.sections(bundle)], None
    with extracted(bundle) as files:
        for section, path in files:
            model, contents = read_flatbuffer(bundle, section, path)
            report.bundle.flatbuffers.append(contents)
            if section in bundle.models[:1]:
                file = (section, model)
        if file is None:
            return found
        return [*found, *_of_flatbuffer(bundle, file[0].sha256, file[1], expected, out)]


def _of_flatbuffer(
    bundle: Bundle, sha256: str, file: FlatbufferModel, expected: content.Expected, out: Path
) -> list[Answer]:
    run = judged_run(sha256, expected.model, out)
    model, shape = content.model(file, expected)
    return [
        model,
        content.judged(bundle, run, expected, str(out)),
        content.quantisation(file, run, expected),
        content.context(bundle.metadata, shape, bundle.form),
    ]


def _task(bundle: Bundle, prepared: Prepared, timeout: float) -> Task:
    request = ExamineRequest(
        bundle=str(bundle.path.resolve()),
        checkpoint=prepared.checkpoint,
        vocabulary=prepared.dimensions.tokens,
        shown=prepared.source.name,
        texts=list(TEXTS),
        conversations={name: list(one) for name, one in CONVERSATIONS.items()},
        probe=PROBE,
        examples=RANDOM,
    )
    memory_mb = 700 + 3 * bundle.size / 1e6
    return Task(
        ENGINE,
        _EXAMINE,
        request.model_dump(),
        Examined,
        memory_mb=memory_mb,
        torch=server.is_ready(),  # where preparing has started it: the frameworks are imported there
        timeout=timeout,
    )


def _add_spoken(report: BundleReport, result: TaskResult, prepared: Prepared) -> None:
    said = result.gave(Examined)
    if said is None:
        report.lost = result.detail.split("; ")[0]
        answer = Answer("engine")
        answer.not_checked(f"it {report.lost}")
        add(report, [answer])
    elif said.refusal:
        answer = Answer("engine")
        answer.wrong(
            FindingCode.BUNDLE_ENGINE_REFUSES,
            f"the engine does not open the bundle ({said.refusal}); make it again with 'edge-parity bundle MODEL --out "
            "FILE'",
        )
        add(report, [answer])
    else:
        add(report, spoken.answers(said, prepared.stop_tokens))
