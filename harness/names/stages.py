"""The stages and the hops between them: which there are, what they are called, and what each is compared with.

In: nothing, or names. Out: `Stage` and `Hop`. Pure, and imports no framework: a stage's `entry` says where its code is.

A stage of a quantised file carries its recipe in its name: `tflite-builtin[dynamic_int8]`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from harness.names.memory import Long, Memory
from harness.names.taps import UNROUNDED_SUFFIX

ORACLE, HF, REAUTHORED, KERAS = "oracle", "hf", "reauthored", "keras"
FAKEQUANT, FAKEQUANT_BUILTIN = "fakequant", "fakequant-builtin"
XNNPACK, BUILTIN, REFERENCE = "tflite-xnnpack", "tflite-builtin", "tflite-reference"
FLATBUFFER = "tflite"  # the version that all of them run
FLOAT = "none"  # the recipe of a file that is not quantised


class Floor(Enum):
    """What the errors on a hop are measured in."""

    NOISE = "noise"  # what float32 itself costs there
    PRICE = "price"  # nothing: it is what a recipe costs, which is held to a budget
    # What float32 costs there and, where a file quantises the inputs of its layers, one step of their grid.
    RUNTIME = "runtime"
    KERNELS = "kernels"  # nothing: two sets of kernels run one quantised file, and agree to an SNR or do not


@dataclass(frozen=True)
class Stage:
    """One way of running a model.

    words: what it is, for people. opens: "module:function" that loads its model, see `harness/jobs/session.py`.
    version: which of a tap's names, in the record's `taps`, is its own. memory: of its process.
    reference: the stage it is compared with; empty for one that is compared with none.
    quantised_reference, quantised_floor: the same for a quantised file, and what that hop's errors are measured in.
    quantised_local: as local_reference, for a quantised file.
    local_reference: the stage whose values its local pass puts in place of its own; empty where it has no local pass.
    exact: the stage that computes the same model without rounding.
    runs_file: whether it runs a flatbuffer. weights_of_file: whether it takes a flatbuffer's weights alone.
    switches: "module:function" that opens it with the file's numbers in some layers, see `harness/jobs/switches.py`;
        empty for a stage that cannot be.
    drives: "module:function" that makes a driver of its open session, see `harness/jobs/driver.py`; empty for a stage
        that cannot be run step by step.
    with_file: of a stage that runs a route's own version, "module:function" that opens it with the numbers of a
        quantised file: so are the stages opened that take a file's weights alone, see `on_route`.
    quantised_only: whether it judges nothing but quantised files.
    needs: stages that must have ended before it starts.
    twin: the stage that may compute the same, bit by bit, and says so by its facts: it runs before.
    owner: whose fault an error is that it introduces itself.
    coverage: the share of a model's taps that its hop must compare, where a declaration names none.
    seconds: how long it takes on SmolLM2 with one core; what counts is how the stages compare, see
        `harness/processes/packing.py`.
    quantised_load: memory and seconds with a quantised file, by what the runtime turns into float32, as
        `harness.names.recipes.widened_by` says it.
    recipe: of the file it runs.
    place: the stage of another route whose place it has: what is compared with that is compared with this one where
        this one runs.
    """

    name: str
    words: str
    opens: str
    version: str
    memory: Memory
    reference: str = ""
    quantised_reference: str = ""
    quantised_floor: Floor = Floor.KERNELS
    local_reference: str = ""
    quantised_local: str = ""
    exact: str = ""
    runs_file: bool = False
    weights_of_file: bool = False
    switches: str = ""
    drives: str = ""
    with_file: str = ""
    quantised_only: bool = False
    needs: tuple[str, ...] = ()
    twin: str = ""
    owner: str = ""
    coverage: float = 0.95
    seconds: float = 10
    quantised_load: Mapping[str, tuple[Memory, float]] = field(default_factory=dict)
    recipe: str = FLOAT
    place: str = ""

    @property
    def base(self) -> str:
        """The name without the recipe."""
        return split(self.name)[0]

    def quantised(self, recipe: str) -> Stage:
        """The same stage on the file of a recipe."""
        return replace(
            self,
            name=named(self.name, recipe),
            words=f"{self.words} ({recipe})",
            reference=_with_recipe(self.quantised_reference, recipe),
            local_reference=_with_recipe(self.quantised_local, recipe),
            twin=_with_recipe(self.twin, recipe),
            recipe=recipe,
        )

    def load(self, weights_mb: float, widened: str, long: Long | None = None) -> tuple[float, float]:
        """MB that its process takes, and seconds. weights_mb: of the model in float32. widened: see quantised_load."""
        memory, seconds = self.memory, self.seconds
        if self.recipe != FLOAT:
            other, seconds = self.quantised_load.get(widened, (memory, seconds))
            memory = replace(other, caches=memory.caches, logits=memory.logits)
        return memory.mb(weights_mb, long), seconds

    @property
    def reads_file(self) -> bool:
        """Whether it needs a flatbuffer, to run or for its weights."""
        return self.runs_file or self.weights_of_file


@dataclass(frozen=True)
class Hop:
    """Two stages compared: `candidate` against `reference`. floor: what its errors are measured in."""

    reference: str
    candidate: str
    floor: Floor = Floor.NOISE

    @property
    def name(self) -> str:
        return f"{self.reference}->{self.candidate}"

    @property
    def stages(self) -> tuple[str, str]:
        return self.reference, self.candidate

    @property
    def judged_against(self) -> str:
        """The stage against whose values the candidate's error is taken: the exact one, where the reference has one."""
        return stage_named(self.reference).exact or self.reference

    @property
    def on_kernels(self) -> bool:
        """Whether both stages run the same quantised file."""
        return self.floor is Floor.KERNELS

    @property
    def by_snr(self) -> bool:
        """Whether its errors are told as signal to noise: what float32 costs does not measure them."""
        return self.floor in (Floor.KERNELS, Floor.PRICE)

    @property
    def unrounded(self) -> str:
        """Where the traces lie that say what one step of its grid costs; empty for a hop that has no grid."""
        return self.reference + UNROUNDED_SUFFIX if self.floor is Floor.RUNTIME else ""

    @classmethod
    def parse(cls, name: str) -> Hop:
        """From `hf->reauthored`. Raises ValueError for what is not the name of a hop."""
        reference, arrow, candidate = name.partition("->")
        if not (reference and arrow and candidate) or "->" in candidate:
            raise ValueError(f"{name} is not the name of a hop")
        return cls.between(reference, candidate)

    @classmethod
    def between(cls, reference: str, candidate: str) -> Hop:
        return cls(reference, candidate, _floor_between(reference, candidate))


def _floor_between(reference: str, candidate: str) -> Floor:
    """What the registry says of the candidate, where that is its reference there.

    Of two stages that the registry does not put side by side, as a record from elsewhere may: two on one file are held
    against each other as its kernels are, and as a runtime where one of them is what the file's numbers cost.
    """
    (_, recipe), (_, own) = split(reference), split(candidate)
    stage, against = known_stage(candidate), known_stage(reference)
    if own == FLOAT:
        return Floor.NOISE
    if stage is not None and (reference == stage.reference or stage.quantised_floor is Floor.PRICE):
        return stage.quantised_floor
    if recipe != own:
        return Floor.NOISE
    return Floor.RUNTIME if against is not None and against.quantised_floor is Floor.PRICE else Floor.KERNELS


_FAKEQUANT = "harness.stages.litert_torch.fakequant:open_session"
_HF, _TFLITE = "harness.stages.huggingface.stage:open_session", "harness.stages.litert.session:open_session"
_HF_DRIVER = "harness.stages.huggingface.driver:open_driver"
_OWN_DRIVER = "harness.stages.litert_torch.driver:open_driver"
_TFLITE_DRIVER = "harness.stages.litert.driver:open_driver"
_FLOAT16, _INTEGERS, _NOTHING = "float16", "integers", ""  # what a runtime turns into float32
_FAKE_QUANTISED = Stage(
    FAKEQUANT,
    "the re-authored model with the numbers of the quantised file",
    _FAKEQUANT,
    version=REAUTHORED,
    memory=Memory(2.5, 400, 4),
    quantised_reference=REAUTHORED,
    quantised_floor=Floor.PRICE,
    weights_of_file=True,
    switches="harness.stages.litert_torch.switches:open_switches",
    drives=_OWN_DRIVER,
    quantised_only=True,
    owner="recipe",
    quantised_load={
        _FLOAT16: (Memory(2, 350), 12),
        _INTEGERS: (Memory(2, 480), 14),
        _NOTHING: (Memory(1.5, 300), 18),
    },
)
_ON_BUILTIN = {_FLOAT16: (Memory(2.5, 800), 28), _INTEGERS: (Memory(2.5, 700), 29), _NOTHING: (Memory(0.5, 700), 22)}
# Memory and seconds were measured on SmolLM2, memory beyond what torch stages share: float64 and float32 weights
# together while one becomes the other; XNNPACK packs the weights once more, of a file with whole numbers after it has
# turned them into float32; builtin kernels keep every intermediate tensor, and the calls of a file copy its KV cache.
_REGISTRY: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(ORACLE, "the Hugging Face model in float64", _HF, HF, Memory(3, 50, 2, 2), drives=_HF_DRIVER, seconds=8),
        Stage(
            HF,
            "the Hugging Face model",
            _HF,
            version=HF,
            memory=Memory(1, 300, 2, 1),
            local_reference=ORACLE,
            exact=ORACLE,
            drives=_HF_DRIVER,
            seconds=16,
        ),
        Stage(
            REAUTHORED,
            "the re-authored model",
            "harness.stages.litert_torch.stage:open_session",
            version=REAUTHORED,
            memory=Memory(1, 200, 4),
            reference=HF,
            local_reference=ORACLE,
            drives=_OWN_DRIVER,
            with_file=_FAKEQUANT,
            owner="re-authoring",
            seconds=11,
        ),
        Stage(
            KERAS,
            "the Keras model",
            "harness.stages.keras.stage:open_session",
            version=KERAS,
            memory=Memory(2, 900),
            reference=HF,
            local_reference=ORACLE,
            drives="harness.stages.keras.driver:open_driver",
            with_file="harness.stages.keras.fakequant:open_session",
            owner="re-authoring",
            seconds=20,
            place=REAUTHORED,
        ),
        _FAKE_QUANTISED,
        replace(
            _FAKE_QUANTISED,
            name=FAKEQUANT_BUILTIN,
            words=f"{_FAKE_QUANTISED.words}, inputs quantised as builtin kernels do",
            twin=FAKEQUANT,
            quantised_load={
                **{widened: (Memory(0, 100), 1) for widened in (_FLOAT16, _INTEGERS)},  # takes its twin's traces
                _NOTHING: _FAKE_QUANTISED.quantised_load[_NOTHING],
            },
        ),
        Stage(
            XNNPACK,
            "TFLite on XNNPACK",
            _TFLITE,
            version=FLATBUFFER,
            memory=Memory(2.2, 800, 8),
            reference=REAUTHORED,
            quantised_reference=FAKEQUANT,
            quantised_floor=Floor.RUNTIME,
            local_reference=REAUTHORED,
            quantised_local=FAKEQUANT,
            runs_file=True,
            drives=_TFLITE_DRIVER,
            coverage=0.90,  # attention probabilities live inside its fused attention: 1 of the 18 points of a block
            seconds=12,
            quantised_load={
                _FLOAT16: (Memory(2.8, 800), 14),
                _INTEGERS: (Memory(4.1, 800), 21),
                _NOTHING: (Memory(0.5, 600), 8),
            },
        ),
        Stage(
            BUILTIN,
            "TFLite on builtin kernels",
            _TFLITE,
            version=FLATBUFFER,
            memory=Memory(1, 870, 20),
            reference=REAUTHORED,
            quantised_reference=FAKEQUANT_BUILTIN,
            quantised_floor=Floor.RUNTIME,
            local_reference=REAUTHORED,
            quantised_local=FAKEQUANT_BUILTIN,
            runs_file=True,
            drives=_TFLITE_DRIVER,
            seconds=15,
            quantised_load=_ON_BUILTIN,
        ),
        Stage(
            REFERENCE,
            "TFLite on reference kernels",
            _TFLITE,
            version=FLATBUFFER,
            memory=Memory(1, 720, 20),
            quantised_reference=BUILTIN,
            runs_file=True,
            drives=_TFLITE_DRIVER,
            quantised_only=True,
            seconds=60,
            quantised_load={widened: (memory, 60) for widened, (memory, _) in _ON_BUILTIN.items()},
        ),
    )
}


def register(stage: Stage) -> None:
    """Add a stage. Raises ValueError where there is one of that name."""
    if stage.name in _REGISTRY:
        raise ValueError(f"there is a stage '{stage.name}' already")
    _REGISTRY[stage.name] = stage


def unregister(name: str) -> None:
    """Take back what `register` added."""
    del _REGISTRY[name]


def stage_named(name: str) -> Stage:
    """The stage of a name, with its recipe. Raises KeyError where there is none."""
    base, recipe = split(name)
    stage = _REGISTRY[base]
    return stage if recipe == FLOAT else stage.quantised(recipe)


def on_route(stage: Stage, own: str) -> Stage:
    """The stage as a run of a route has it. own: the stage that runs the route's own version.

    What takes a file's weights alone is that version with other numbers: opened, driven and named by it. Which layers
    hold which numbers can be chosen in the re-authored model alone.
    """
    if not stage.weights_of_file or own == stage.version:
        return stage
    version = _REGISTRY[own]
    return replace(stage, opens=version.with_file, drives=version.drives, version=own, switches="")


def known_stage(name: str) -> Stage | None:
    """As `stage_named`, for names from outside: a record may come from another version."""
    return stage_named(name) if split(name)[0] in _REGISTRY else None


def every_stage() -> tuple[Stage, ...]:
    """Without recipes, in the order of the pipeline."""
    return tuple(_REGISTRY.values())


def float32_stages() -> tuple[str, ...]:
    """The names of the stages of float32, in the order of the pipeline: a run has those of its route."""
    return tuple(stage.name for stage in every_stage() if not stage.quantised_only)


def route_stages(own: str) -> tuple[str, ...]:
    """Those of `float32_stages` that a run of one route has. own: the stage that runs its own version."""
    others = set(own_stages()) - {own}
    return tuple(name for name in float32_stages() if name not in others)


def file_stages() -> tuple[str, ...]:
    """Those of `float32_stages` that run a flatbuffer."""
    return tuple(stage.name for stage in every_stage() if stage.runs_file and not stage.quantised_only)


def runs_file(name: str) -> bool:
    """Whether a stage runs a flatbuffer; of a stage that is not known here, no."""
    stage = known_stage(name)
    return stage is not None and stage.runs_file


def named(task: str, recipe: str) -> str:
    """A stage's or task's name for a recipe: `tflite-builtin[fp16]`."""
    return task if recipe == FLOAT else f"{task}[{recipe}]"


def split(stage: str) -> tuple[str, str]:
    """A stage's name without its recipe, and the recipe: ("tflite-builtin", "fp16")."""
    base, _, recipe = stage.partition("[")
    return base, recipe.removesuffix("]") or FLOAT


def device_order(stage: str) -> tuple[str, int]:
    """Sorts names of stages as a device's way goes: those of no quantised file first, then those of each recipe."""
    base, recipe = split(stage)
    return "" if recipe == FLOAT else recipe, list(_REGISTRY).index(base)


def recipe_of_hop(hop: str) -> str:
    """The recipe of the file that a hop, by its name, is about."""
    return split(hop.partition("->")[2])[1]


def having_the_place(name: str) -> tuple[str, ...]:
    """A stage's name, and those of the stages that have its place in other routes."""
    return (name, *(stage.name for stage in every_stage() if stage.place and stage.place == name))


def own_stages() -> tuple[str, ...]:
    """The stages that run a route's own version of the published model; a run has that of its route alone, and none
    where the published model itself is exported.
    """
    return having_the_place(REAUTHORED)


def present(name: str, stages: Collection[str]) -> str:
    """The one of `stages` that has a stage's place; the name itself where there is none, or it has a recipe.

    The published model stands in for a version of its own where it is exported itself.
    """
    places = (*having_the_place(name), *((HF,) if name == REAUTHORED else ()))
    return next((one for one in places if one in stages), name)


def local_reference(stage: Stage, stages: Collection[str]) -> str:
    """The one of `stages` whose values a stage's local pass puts in place of its own: the exact one, where that is the
    published model.
    """
    reference = present(stage.local_reference, stages)
    return _REGISTRY[HF].exact if reference == HF else reference


def standard_hops() -> tuple[Hop, ...]:
    """The hops whose errors are measured in float32's noise, by every route."""
    return tuple(
        Hop(reference, stage.name)
        for stage in every_stage()
        if stage.reference
        for reference in (*having_the_place(stage.reference), *((HF,) if stage.reference == REAUTHORED else ()))
    )


def quantised_hops(recipes: Iterable[str]) -> tuple[Hop, ...]:
    """The hops of the quantised files of recipes: what each costs, the runtimes, and kernels against each other."""
    stages = [stage for stage in every_stage() if stage.quantised_reference]
    return tuple(
        Hop(_with_recipe(reference, recipe), named(stage.name, recipe), stage.quantised_floor)
        for recipe in recipes
        for stage in stages
        for reference in having_the_place(stage.quantised_reference)
    )


def _with_recipe(stage: str, recipe: str) -> str:
    """A stage's name for a recipe's file; its own for a stage that has nothing of a file, empty for none."""
    known = _REGISTRY.get(stage)
    return named(stage, recipe) if known is not None and known.reads_file else stage


def hops_of(stages: tuple[str, ...]) -> tuple[Hop, ...]:
    """The hops of a run of these stages."""
    recipes = dict.fromkeys(recipe for _, recipe in map(split, stages) if recipe != FLOAT)
    every = (*standard_hops(), *quantised_hops(recipes))
    return tuple(hop for hop in every if set(hop.stages) <= set(stages) and not _goes_round(hop, stages))


def _goes_round(hop: Hop, stages: tuple[str, ...]) -> bool:
    """Whether a hop leaves out the version that its file was converted of."""
    return hop.reference == HF and hop.candidate in file_stages() and any(own in stages for own in own_stages())
