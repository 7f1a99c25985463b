"""Graphs of operators, whatever framework they are of, and which tap each operator belongs to.

In: operators with their sources, and the taps that some of them make. Out: the tap of every operator. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from harness.names.taps import split_tap

INPUTS = "inputs"
OUTSIDE = "outside the blocks"


@dataclass(frozen=True)
class Op:
    """One operator, or an input of the graph.

    id: unique in its graph. namespace: the modules it lies in, outermost first, joined by slashes. sources: ids of the
    operators that make what it reads, constants aside. shape: of its first output, "1x32x576".
    """

    id: str
    label: str
    namespace: str
    sources: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    shape: str = ""
    dtype: str = ""


@dataclass(frozen=True)
class OpGraph:
    """The operators of one version of a model, in execution order.

    taps: tap -> id of the operator that makes it, in execution order; one operator may make several.
    places: "subgraph/index" of an operator in a flatbuffer -> its id.
    """

    ops: tuple[Op, ...]
    taps: dict[str, str]
    places: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _by_id(self) -> dict[str, Op]:
        return {op.id: op for op in self.ops}

    def op(self, identity: str) -> Op:
        return self._by_id[identity]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> OpGraph:
        ops = (Op(**{**op, "sources": tuple(op["sources"])}) for op in content["ops"])
        return cls(tuple(ops), dict(content["taps"]), dict(content["places"]))


def made_by(graph: OpGraph) -> dict[str, tuple[str, ...]]:
    """Operator -> the taps that it makes, in execution order; only operators that make one."""
    made: dict[str, tuple[str, ...]] = {}
    for tap, op in graph.taps.items():
        made[op] = (*made.get(op, ()), tap)
    return made


def belonging(graph: OpGraph) -> dict[str, tuple[str, ...]]:
    """Operator -> its taps: those it makes, or else the first one, in execution order, that it feeds.

    An operator between two taps belongs to the one that it feeds: the way back from a tap ends at operators that make
    another, and at those that an earlier tap has claimed. What feeds no tap is absent, and so are inputs.
    """
    sources = {op.id: op.sources for op in graph.ops if op.namespace != INPUTS}
    found = made_by(graph)
    for tap, maker in graph.taps.items():
        waiting = list(sources.get(maker, ()))
        while waiting:
            op = waiting.pop()
            if op in sources and op not in found:
                found[op] = (tap,)
                waiting += sources[op]
    return found


def bypassed(ops: Iterable[Op], transparent: Iterable[str]) -> tuple[tuple[Op, ...], dict[str, str]]:
    """The operators without those that hand on their first source unchanged, and what each of those stands for.

    ops: in execution order. transparent: ids; each needs a source. Returns (the others, transparent id -> id).
    """
    gone = set(transparent)
    stands_for: dict[str, str] = {}
    kept = []
    for op in ops:
        sources = tuple(stands_for.get(source, source) for source in op.sources)
        if op.id in gone:
            stands_for[op.id] = sources[0]
        else:
            kept.append(replace(op, sources=sources))
    return tuple(kept), stands_for


def drawn(graph: OpGraph) -> tuple[tuple[Op, ...], dict[str, str]]:
    """The operators as they are drawn: what several blocks read from outside stands in each of them.

    The tables of the rotary embedding and the mask go into every block. As edges over thirty blocks they cover the
    others, and a browser without a GPU takes most of its time for them. The first block reads the operator itself. An
    input that one block alone reads stands there. Returns (operators, id of a double -> id of what it stands for).
    """
    blocks = {group_of(graph.op(maker)) for tap, maker in graph.taps.items() if split_tap(tap)[0] is not None}
    groups = {op.id: group_of(op) for op in graph.ops}
    readers: dict[str, list[str]] = {}
    for op in graph.ops:
        for source in op.sources:
            if groups[op.id] not in readers.setdefault(source, []):
                readers[source].append(groups[op.id])
    first = {source: next((group for group in found if group in blocks), "") for source, found in readers.items()}
    ops: list[Op] = []
    doubles: dict[str, str] = {}
    for op in graph.ops:
        group, sources = groups[op.id], list(op.sources)
        for place, source in enumerate(op.sources):
            if group in blocks and groups[source] not in blocks and first[source] != group:
                sources[place] = f"{source} for {group}"
                if sources[place] not in doubles:
                    doubles[sources[place]] = source
                    ops.append(replace(graph.op(source), id=sources[place], namespace=group, sources=()))
        alone = op.namespace == INPUTS and readers.get(op.id) == [first.get(op.id)]
        ops.append(replace(op, sources=tuple(sources), namespace=first[op.id] if alone else op.namespace))
    return tuple(ops), doubles


def group_of(op: Op) -> str:
    """The outermost layer that an operator stands in."""
    return op.namespace.split("/")[0]
