"""Stages in processes: whatever happens to one, the run goes on and says what happened."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from watching import Watcher

from harness.errors import UsageError, told
from harness.processes import scheduler as process
from harness.processes.scheduler import Task, TaskResult, run_tasks
from harness.system.memory import MachineMemory

pytestmark = pytest.mark.process


def task(name: str, function: str, payload: dict | None = None, **more: object) -> Task:
    return Task(name, f"stage_targets:{function}", payload or {}, **more)


def run(tmp_path: Path, *tasks: Task, **more: object) -> dict[str, TaskResult]:
    return run_tasks(list(tasks), tmp_path / "run.log", Watcher(), **more)


def test_a_stage_runs_in_a_process_of_its_own_and_gives_back_what_it_found(tmp_path):
    watcher = Watcher()
    results = run_tasks([task("a", "work", {"x": 1})], tmp_path / "run.log", watcher)
    assert results["a"].status == "ok"
    assert results["a"].value.root["x"] == 1
    assert results["a"].value.root["pid"] != os.getpid()
    assert results["a"].peak_rss_mb > 1
    assert watcher.said == ["working"]
    assert watcher.ends == ["a"]


def test_what_a_framework_says_goes_to_the_log_and_not_to_the_terminal(tmp_path, capfd):
    run(tmp_path, task("a", "work"))
    assert capfd.readouterr() == ("", "")
    assert "a framework speaks" in (tmp_path / "run.log").read_text()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux shows them")
@pytest.mark.parametrize("torch", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_linear_algebra_of_a_stage_keeps_to_one_core(tmp_path, monkeypatch, torch):
    """Stages run side by side: threads that wait for a core that another has would spin."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = run(tmp_path, task("a", "multiply", torch=torch))["a"].value.root
    assert found == {"corner": 1024.0, "threads": 1}


@pytest.mark.parametrize(
    ("function", "status", "says"),
    [
        ("segfault", "crashed", "SIGSEGV"),
        ("killed", "crashed", "killed by SIGKILL (by somebody, or by the system when memory runs out)"),
        ("hang", "timeout", "time limit of 1 s"),
        ("fail", "crashed", "RuntimeError: the model does not like this"),
    ],
)
def test_a_stage_that_ends_badly_is_reported_and_the_others_go_on(tmp_path, function, status, says):
    limit = 1.0 if status == "timeout" else 60.0  # the others must not run into it on a busy machine
    results = run(tmp_path, task("bad", function, timeout=limit), task("good", "work"))
    assert results["bad"].status == status
    assert says in results["bad"].detail
    assert "run.log" in results["bad"].detail
    assert results["good"].status == "ok"


@pytest.mark.parametrize(
    ("peak_mb", "says"),
    [
        (0.0, "killed by SIGKILL (by somebody, or by the system when memory runs out)"),
        (1200.0, "killed by SIGKILL (by somebody, or by the system when memory runs out)"),
        (6100.0, "killed by SIGKILL at 6100 MB, as the system does when memory runs out"),
    ],
)
def test_memory_is_accused_only_of_killing_what_had_much_of_it(monkeypatch, tmp_path, peak_mb, says):
    monkeypatch.setattr(process, "memory", lambda: MachineMemory(total=8_000_000_000, free=4_000_000_000))
    ended = SimpleNamespace(exitcode=-signal.SIGKILL, join=lambda: None)
    entry = process.Running(task("a", "work"), ended, SimpleNamespace(), began=0.0, peak_mb=peak_mb)
    assert process.result_of(entry, tmp_path / "run.log").detail.startswith(says)


def test_what_needs_a_failed_stage_is_skipped_and_says_why(tmp_path):
    results = run(tmp_path, task("a", "fail"), task("b", "work", needs=("a",)), task("c", "work", needs=("b",)))
    assert results["b"].status == "skipped"
    assert "a did not finish" in results["b"].detail
    assert results["c"].status == "skipped"


def test_what_rests_on_a_failed_stage_is_skipped_in_whatever_order_it_waits(tmp_path):
    """Tasks are sorted by how long they take, so what needs another one may stand before it."""
    chain = [task("c", "work", needs=("b",)), task("b", "work", needs=("a",)), task("a", "fail")]
    results = run(tmp_path, *chain)
    assert [results[name].status for name in "abc"] == ["crashed", "skipped", "skipped"]


def test_a_payload_can_be_made_of_what_ran_before(tmp_path):
    first = task("a", "work", {"x": 1})
    second = Task("b", "stage_targets:work", lambda results: {"y": results["a"].value.root["x"] + 1}, needs=("a",))
    assert run(tmp_path, first, second)["b"].value.root["y"] == 2


def test_a_wrong_input_ends_the_run_with_its_one_line(tmp_path):
    with pytest.raises(UsageError, match="no such thing; give another"):
        run(tmp_path, task("a", "refuse"), task("b", "hang"))


def test_stages_that_do_not_depend_on_each_other_overlap(tmp_path):
    results = run(tmp_path, *(task(name, "nap", {"seconds": 1.0}) for name in "ab"), cores=2)
    assert max(r.value.root["began"] for r in results.values()) < min(r.value.root["ended"] for r in results.values())


@pytest.mark.parametrize("limit", [{"cores": 1}, {"memory_mb": 900}])
def test_stages_wait_for_cores_and_memory(tmp_path, limit):
    naps = [task(name, "nap", {"seconds": 0.3}, memory_mb=500) for name in "ab"]
    results = run(tmp_path, *naps, **limit)
    first, second = sorted(results.values(), key=lambda result: result.value.root["began"])
    assert second.value.root["began"] >= first.value.root["ended"]


def test_a_stage_larger_than_the_budget_runs_alone_and_not_never(tmp_path):
    results = run(tmp_path, task("a", "nap", {"seconds": 0.1}, memory_mb=9000), task("b", "work"), memory_mb=1000)
    assert [result.status for result in results.values()] == ["ok", "ok"]


def test_a_stage_that_must_run_alone_does(tmp_path):
    naps = [task("a", "nap", {"seconds": 0.3}, alone=True), task("b", "nap", {"seconds": 0.3})]
    results = run(tmp_path, *naps, cores=2)
    assert results["b"].value.root["began"] >= results["a"].value.root["ended"]


def test_peak_memory_is_the_stages_own(tmp_path):
    results = run(tmp_path, task("large", "allocate", {"mb": 300}), task("small", "allocate", {"mb": 1}), cores=1)
    assert results["large"].peak_rss_mb > 300
    assert results["small"].peak_rss_mb < 200


@pytest.mark.slow
def test_the_server_that_torch_stages_are_forked_from_is_started_again_once(tmp_path):
    """With what it took along: the stage that ran, and the one that waited for it. A stage of another kind goes on."""
    told = {"count": str(tmp_path / "count"), "times": 1}
    tasks = [task("a", "end_the_server", told, torch=True), task("b", "work", needs=("a",), torch=True)]
    results = run(tmp_path, *tasks, task("c", "nap", {"seconds": 0.1}))
    assert {name: result.status for name, result in results.items()} == {"a": "ok", "b": "ok", "c": "ok"}
    assert results["a"].value.root == {"times": 1}


@pytest.mark.slow
def test_if_it_ends_again_what_it_took_along_has_crashed_and_the_next_has_a_server(tmp_path):
    told = {"count": str(tmp_path / "count"), "times": 2}
    tasks = [task("a", "end_the_server", told, torch=True), task("b", "work", needs=("a",), torch=True)]
    results = run(tmp_path, *tasks, task("c", "work", torch=True), cores=1)
    assert (results["a"].status, results["b"].status, results["c"].status) == ("crashed", "skipped", "ok")
    assert "the process that torch stages are forked from ended twice" in results["a"].detail
    assert "run.log" in results["a"].detail


class MLIRError(Exception):
    """As litert-converter raises it."""


CONVERTER = """Operation creation failed:
error: "litert_torch.Model/litert_torch.layers.CausalSelfAttention_atten_func;"("dynamic_update_slice"("/lib/\
site-packages/litert_torch/attention.py":263:0)): expects size at dimension 1 of update to be in range [0, 16]. Got: 32.

While executing %dynamic_update_slice : [num_users=2] = call_function[target=torch.ops.dynamic_update_slice.default]
Original traceback:
File "/lib/converter.py", line 48, in forward
Use tlparse to see full graph. (https://github.com/pytorch/tlparse)
"""


def test_what_an_exception_says_first_is_shown_and_not_its_last_hint() -> None:
    said = told(MLIRError(CONVERTER))
    assert said.startswith('MLIRError: Operation creation failed: error: "litert_torch.layers.CausalSelfAttention')
    assert '("dynamic_update_slice"("attention.py":263:0)): expects size at dimension 1' in said
    assert said.endswith("Got: 32.")
    assert "tlparse" not in said
    assert told(KeyError("tokens")) == "KeyError: 'tokens'"
    assert told(ValueError("\n\n  one\ntwo\n")) == "ValueError: one"
    assert told(RuntimeError("Error(s) in loading:\n\tMissing key(s): a")) == (
        "RuntimeError: Error(s) in loading: Missing key(s): a"
    )
    assert told(RuntimeError("Use tlparse to see full graph.\nthe reason")) == "RuntimeError: the reason"
    assert told(RuntimeError()) == "RuntimeError: "
    assert len(told(RuntimeError("x" * 5000))) < 450
