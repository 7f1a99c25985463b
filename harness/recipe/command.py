"""`edge-parity recipe`: the smallest file that keeps a budget of KL, or the best one of a size.

In: what the command line asked for. Out: a folder with the recipe in ai-edge-quantizer's JSON, every candidate that was
measured, and a page. Each candidate is a real file that ran on the kernels that ship.
"""

from __future__ import annotations

import datetime
import errno
import json
import math
import os
import shlex
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import ProcessLostError, UsageError
from harness.names.recipes import Rules
from harness.names.stages import FAKEQUANT, FLOAT, on_route, stage_named
from harness.pipeline.environment import environment
from harness.pipeline.options import Options, check, run_words
from harness.pipeline.preparing import prepare
from harness.pipeline.work import Work
from harness.processes.scheduler import Watcher
from harness.recipe.evaluation import Evaluation, FileFigures
from harness.recipe.knapsack import Frontier, LayerChoice
from harness.recipe.layers import operators_of, options_of
from harness.recipe.rules import mixed_rules
from harness.record.recipe_search import LayerCost, RecipeCandidate, RecipeSearch, within_budget
from harness.record.runs import next_run_id
from harness.record.sensitivity import AloneCosts
from harness.spec.find import own_stage
from harness.store.cache import Cache
from harness.store.run_folder import working_folder

PREFIX = "recipe-"
WINNER_FILE, SEARCH_FILE, PAGE_FILE = "recipe.json", "search.json", "recipe.html"
_CURVE = 5  # mixtures that are measured whatever the budget is, between the smallest file and the largest uniform one
_TRIES = 5  # more near the budget
_FLOAT_BITS = 32
_NEAR = 0.005  # of the size: nearer than this, two files are the same to whoever ships one


@dataclass(frozen=True)
class SearchOptions:
    """run: as for a run of the model; its recipes are those that are mixed. One of the budgets is given."""

    run: Options
    max_kl: float | None = None
    max_mb: float | None = None


def check_options(options: SearchOptions) -> None:
    """Raises UsageError for what can be told to be wrong without a framework."""
    if (options.max_kl is None) == (options.max_mb is None):
        raise UsageError("recipe needs a budget; give --max-kl NATS or --max-mb MB, and one of them alone")
    for name, value, example in (("--max-kl", options.max_kl, "0.05"), ("--max-mb", options.max_mb, "100")):
        if value is not None and not 0 < value < math.inf:  # NaN too
            raise UsageError(f"{name} {value:g} must be positive and finite; give e.g. {name} {example}")


def search_recipe(options: SearchOptions, watcher: Watcher) -> tuple[Path, RecipeSearch]:
    """Search, and write the folder. Raises UsageError for bad input, before anything is written."""
    check_options(options)
    ref = check(options.run)
    if not on_route(stage_named(FAKEQUANT), own_stage(ref)).switches:
        raise UsageError(f"recipe quantises layers one by one, which no stage of {ref.name} can; judge whole recipes")
    began = time.monotonic()
    run_id = next_run_id(options.run.out, datetime.datetime.now(datetime.UTC))
    parent = options.run.out / ref.name
    with working_folder(parent, f"{PREFIX}{run_id}") as folder:
        cache = Cache.temporary(folder / "cache") if options.run.no_cache else Cache.standard()
        state = Work(options.run, ref, folder, cache, watcher, run_id)
        prepared, _ = prepare(state)
        search = _Search(Evaluation(state, prepared), options, dict(prepared.recipes))
        try:
            found = search.result(ref.name, run_id)
        except ProcessLostError as error:
            raise _kept_log(error, state.log, parent / f"{PREFIX}{run_id}.log", options.run.out) from None
        found.seconds = round(time.monotonic() - began, 3)
        final = parent / f"{PREFIX}{run_id}"
        _write(folder, found, final)
    return final, found


def _kept_log(error: ProcessLostError, log: Path, kept: Path, out: Path) -> Exception:
    """What is raised in place of an error whose log goes with the folder: it names the log that stays."""
    if os.strerror(errno.ENOSPC) in str(error):
        return UsageError(f"--out {out}: {os.strerror(errno.ENOSPC)}; free some space, or give another folder")
    shutil.copyfile(log, kept)
    return ProcessLostError(f"{str(error).split('; run.log')[0]}; {kept} has what it said")


def judge_command(options: Options, recipe: Path) -> str:
    """The run that judges the winner as any other recipe: price, runtimes, audit."""
    given = [word for prompt in options.prompts for word in ("--prompt", prompt)]
    given += ["--inputs", str(options.inputs_file)] if options.inputs_file else []
    return shlex.join([*run_words(options), *given, "--quantize", str(recipe)])


def _write(folder: Path, found: RecipeSearch, final: Path) -> None:
    """Everything, and then the folder under its own name: whole or not at all."""
    from harness.render.recipe_search import page

    for name in ("traces", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / SEARCH_FILE).write_text(found.model_dump_json(indent=1))
    if found.taken is not None:
        (folder / WINNER_FILE).write_text(json.dumps(found.taken.rules, indent=1))
    (folder / PAGE_FILE).write_text(page(found))
    folder.rename(final)


@dataclass
class _Search:
    """Everything measured so far, by the name of the recipe."""

    evaluation: Evaluation
    options: SearchOptions
    uniform: dict[str, Rules]
    figures: dict[str, FileFigures] = field(default_factory=dict)
    choices: dict[str, LayerChoice] = field(default_factory=dict)
    costs: dict[str, AloneCosts] = field(default_factory=dict)
    mixed: dict[str, Rules] = field(default_factory=dict)

    def result(self, model: str, run_id: str) -> RecipeSearch:
        self.evaluation.begin()
        self.figures = self.evaluation.measure(self.uniform)
        self.costs = {name: self.evaluation.costs(name) for name in self.uniform}
        self.float32_mb = self.evaluation.file_of().stat().st_size / 1e6
        self.layers = options_of(
            self.costs,
            {name: found.bits for name, found in self.figures.items()},
            {name: found.mb for name, found in self.figures.items()},
            self.float32_mb,
        )
        self.operators = operators_of(self.evaluation.file_of(), self.evaluation.plan_of_float32(), self.layers)
        self.frontier = Frontier(self.layers)
        every = sum(next(one.size for one in options if one.recipe == FLOAT) for options in self.layers.values())
        self.rest_mb = self.float32_mb - every / 1e6  # what no recipe changes
        if self.options.max_mb is None or self.options.max_mb >= self._least_mb:
            self._measure_curve()
            self._measure_near_budget()
        return self._record(model, run_id)

    @property
    def _least_mb(self) -> float:
        """Of the smallest file that there can be."""
        return self.rest_mb + self.frontier.least / 1e6

    def _measure_curve(self) -> None:
        least = self._least_mb
        most = max(found.mb for found in self.figures.values())
        for number in range(_CURVE):
            self._try(self.frontier.within((least + (most - least) * number / (_CURVE - 1) - self.rest_mb) * 1e6))

    def _measure_near_budget(self) -> None:
        for _ in range(_TRIES):
            if not self._try(self._next()):
                return

    def _next(self) -> LayerChoice | None:
        """Between the best file that keeps the budget and the next one that does not."""
        if self.options.max_mb is not None:
            over = [self.choices[name].size / 1e6 + self.rest_mb - found.mb for name, found in self._of_choices()]
            room = (self.options.max_mb - self.rest_mb + min([0.0, *over])) * 1e6
            return self.frontier.within(min(room, self.frontier.most - 1))  # something of it has to be quantised
        assert self.options.max_kl is not None
        kept = [found.mb for found in self.figures.values() if self._keeps(found)]
        upper = min(kept, default=self.float32_mb)
        lower = max((found.mb for found in self.figures.values() if found.mb < upper), default=0.0)
        if upper - lower < _NEAR * upper:
            return None
        chosen = self.frontier.cheaper_than(self.options.max_kl / self._off(upper))
        if chosen is None or not lower < chosen.size / 1e6 + self.rest_mb < upper:
            return self.frontier.within(((lower + upper) / 2 - self.rest_mb) * 1e6)
        return chosen

    def _off(self, mb: float) -> float:
        """How many times the predicted KL the measured one is, at the mixture whose size is nearest."""
        known = [
            (abs(found.mb - mb), found.kl_mean / self.choices[name].cost)
            for name, found in self._of_choices()
            if self.choices[name].cost > 0 and math.isfinite(found.kl_mean)
        ]
        return min(known)[1] if known else 1.0

    def _of_choices(self) -> list[tuple[str, FileFigures]]:
        return [(name, found) for name, found in self.figures.items() if name in self.choices]

    def _keeps(self, found: FileFigures) -> bool:
        return not found.refused and within_budget(self.options.max_kl, self.options.max_mb, found.kl_mean, found.mb)

    def _try(self, choice: LayerChoice | None) -> bool:
        """Apply a choice and measure its file. Returns whether that was new."""
        if choice is None or any(known.recipes == choice.recipes for known in self.choices.values()):
            return False
        if any(self._uniform_choice(name) == choice.recipes for name in self.uniform):  # it is measured already
            return False
        rules = mixed_rules(choice.recipes, self.uniform, self.operators)
        if not rules:  # all of it in float32
            return False
        name = f"mixed-{len(self.choices) + 1}"
        self.choices[name], self.mixed[name] = choice, rules
        self.figures |= self.evaluation.measure({name: rules})
        return True

    def _uniform_choice(self, recipe: str) -> dict[str, str]:
        """What a uniform recipe makes of each layer: it leaves some in float32."""
        bits = self.figures[recipe].bits
        return {layer: recipe if bits[layer] < _FLOAT_BITS else FLOAT for layer in self.layers}

    def _winner(self) -> str | None:
        """The smallest that keeps the KL, or that of the least KL that keeps the size; of two alike, the simpler."""
        kept = [(name, found) for name, found in self.figures.items() if self._keeps(found)]
        if self.options.max_kl is not None:
            return min(kept, key=lambda one: (one[1].mb, one[1].kl_mean, one[0] in self.choices), default=(None,))[0]
        return min(kept, key=lambda one: (one[1].kl_mean, one[1].mb, one[0] in self.choices), default=(None,))[0]

    def _record(self, model: str, run_id: str) -> RecipeSearch:
        return RecipeSearch(
            model=model,
            run_id=run_id,
            max_kl=self.options.max_kl,
            max_mb=self.options.max_mb,
            winner=self._winner(),
            float32_mb=self.float32_mb,
            least_mb=self._least_mb,
            positions=next(iter(self.figures.values())).positions,
            cost_positions=next(iter(self.costs.values())).positions,
            candidates=sorted((self._candidate(name) for name in self.figures), key=lambda one: one.mb),
            costs=[
                LayerCost(layer=layer, recipe=one.recipe, bytes=one.size, kl=_finite(one.cost))
                for layer, options in self.layers.items()
                for one in options
                if one.recipe != FLOAT
            ],
            environment=environment(),
        )

    def _candidate(self, name: str) -> RecipeCandidate:
        found, choice = self.figures[name], self.choices.get(name)
        return RecipeCandidate(
            name=name,
            uniform=choice is None,
            mb=found.mb,
            kl_mean=_finite(found.kl_mean),
            kl_p99=_finite(found.kl_p99),
            flips=found.flips,
            predicted_kl=self._predicted(name) if choice is None else choice.cost,
            layers=dict(Counter(self._recipes(name).values())),
            recipes=self._recipes(name),
            refused=found.refused,
            rules=self.mixed[name] if choice is not None else self.uniform[name],
        )

    def _recipes(self, name: str) -> dict[str, str]:
        choice = self.choices.get(name)
        return self._uniform_choice(name) if choice is None else dict(choice.recipes)

    def _predicted(self, recipe: str) -> float | None:
        every = [one.kl for one in self.costs[recipe].layers]
        return _finite(sum(math.nan if one is None else one for one in every))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
