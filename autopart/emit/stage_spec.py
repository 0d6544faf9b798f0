"""Cut a folded graph into stages: which nodes and runs each has, and which values cross between them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from autopart.errors import UnsupportedError
from autopart.ir.folded import Folded, Loop
from autopart.ir.graph import Update
from autopart.ir.size import Size, is_batched
from autopart.ir.units import Unit


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs `first` up to `stop` of a loop."""

    loop: Loop
    first: int
    stop: int


@dataclass(frozen=True)
class StageSpec:
    """A stage: `items` are node indices and runs of loops in order; the others name what it takes, gives and updates.

    The value that a loop carries into run r > 0 is named by `carried_name`.
    """

    items: tuple[int | Runs, ...]
    inputs: tuple[str, ...]
    receives: tuple[str, ...]
    gives: tuple[str, ...]
    updates: tuple[Update, ...]


def _shape(folded: Folded, name: str) -> tuple[Size, ...]:
    """The shape of a value, also of one between two runs of a loop."""
    values = folded.graph.values
    return values[name if name in values else re.sub(r"_run\d+$", "", name)].shape


def carried_name(folded: Folded, loop: Loop, number: int, run: int) -> str:
    """The name of what a loop carries into run `run`: outside names for the first and for what leaves the last."""
    if run == 0:
        return folded.graph.nodes[loop.start + number].inputs[0]
    if run == loop.region.count:
        return folded.graph.nodes[loop.body.stop + number].output.name
    return f"{folded.graph.nodes[loop.start + number].output.name}_run{run}"


def stage_specs(
    folded: Folded, units: Sequence[Unit], cuts: Sequence[int], totals: frozenset[str] = frozenset()
) -> tuple[StageSpec, ...]:
    """The stages that `cuts` (indices of the units that begin a new stage) make of `folded`.

    `totals` are nodes whose results are known before a step, so that what they take is not needed.
    """
    bounds = [0, *cuts, len(units)]
    graph = folded.graph
    all_items = [_items(folded, units[a:b]) for a, b in pairwise(bounds)]
    made = [_made(folded, items) for items in all_items]
    model_inputs = {item.value.name for item in graph.inputs}
    specs: list[StageSpec] = []
    needs: list[set[str]] = []
    results = graph.outputs
    # A stage may need to know how many samples there are, and be given nothing that has them: an input tells.
    sizing = [item.value.name for item in graph.inputs if item.path in graph.batched_inputs][:1]
    for stage, (items, own) in enumerate(zip(all_items, made, strict=True)):
        last = stage == len(made) - 1
        updates = _updates(folded, stage, items, own, totals)
        leaving = [*(update.value for update in updates), *(results if last else [])]
        helpers, missing = _needed(folded, items, own, leaving, totals)
        ordered = _in_order(folded, items, helpers)
        needs.append({name for name in missing if name not in model_inputs})
        if not any(is_batched(size) for name in missing for size in _shape(folded, name)):
            missing.update(sizing)
        specs.append(
            StageSpec(
                ordered,
                tuple(item.value.name for item in graph.inputs if item.value.name in missing),
                tuple(sorted(name for name in missing if name not in model_inputs)),
                (),
                updates,
            )
        )
    return tuple(
        replace(spec, gives=tuple(name for name in own if any(name in need for need in needs[stage + 1 :])))
        for stage, (spec, own) in enumerate(zip(specs, made, strict=True))
    )


def _updates(
    folded: Folded, stage: int, items: Sequence[int | Runs], own: Sequence[str], totals: frozenset[str]
) -> tuple[Update, ...]:
    """The constants that the stage updates: with what it makes; and those that it reads, where no stage's work is
    needed for that. Such a constant that no stage reads is the first one's.

    Raises:
        UnsupportedError: the stage reads a constant that another stage updates.
    """
    graph, made = folded.graph, set(own)
    helpers, _ = _needed(folded, items, own, (), totals)
    nodes = {graph.nodes[index].name for index in helpers} | {
        graph.nodes[index].name for item in items for index in ((item,) if isinstance(item, int) else item.loop.body)
    }
    read = {name for node in graph.nodes if node.name in nodes for name in node.inputs}
    found = []
    for update in graph.updates:
        free = update.value in graph.recomputable
        if update.value in made or (free and (stage == 0 or update.constant in read)):
            found.append(update)
        elif update.constant in read:
            raise UnsupportedError(
                f"{graph.targets[update.constant]} of {graph.name} is read on stage {stage} of the pipeline and "
                "changed on another: choose other cuts (cuts=), or a smaller pp"
            )
    return tuple(found)


def _items(folded: Folded, units: Sequence[Unit]) -> list[int | Runs]:
    items: list[int | Runs] = []
    for unit in units:
        if unit.loop is None:
            items += unit.nodes
        elif items and isinstance(last := items[-1], Runs) and last.loop == unit.loop and last.stop == unit.run:
            items[-1] = Runs(unit.loop, last.first, unit.run + 1)
        else:
            items.append(Runs(unit.loop, unit.run, unit.run + 1))
    return items


def _made(folded: Folded, items: Sequence[int | Runs]) -> list[str]:
    names: list[str] = []
    for item in items:
        if isinstance(item, Runs):
            names += [carried_name(folded, item.loop, number, item.stop) for number in range(len(item.loop.enters))]
        else:
            names += [value.name for value in folded.graph.nodes[item].outputs]
    return names


def taken(folded: Folded, item: int | Runs) -> list[str]:
    """The values from outside that an item takes, weights included, in order."""
    graph = folded.graph
    if not isinstance(item, Runs):
        return list(dict.fromkeys(graph.nodes[item].inputs))
    loop = item.loop
    inside = {graph.nodes[i].output.name for i in range(loop.start, loop.start + len(loop.enters))}
    inside |= {value.name for i in loop.body for value in graph.nodes[i].outputs}
    names = [carried_name(folded, loop, number, item.first) for number in range(len(loop.enters))]
    for i in loop.body:
        names += [name for name in graph.nodes[i].inputs if name not in inside]
    return list(dict.fromkeys(names))


def _needed(
    folded: Folded, items: Sequence[int | Runs], own: Sequence[str], results: Sequence[str], totals: frozenset[str]
) -> tuple[set[int], set[str]]:
    """Recomputable nodes that the stage must run for itself, and the values that it must be given."""
    graph = folded.graph
    helpers: set[int] = set()
    missing: set[str] = set()
    present = set(own) | graph.weights
    pending = [*results, *(name for item in items for name in taken(folded, item))]
    while pending:
        name = pending.pop()
        if name in present or name in missing:
            continue
        index = graph.producer.get(name)
        if index is not None and name in graph.recomputable and index not in folded.loop_of:
            helpers.add(index)
            present.update(value.name for value in graph.nodes[index].outputs)
            if graph.nodes[index].name not in totals:
                pending += graph.nodes[index].inputs
        else:
            missing.add(name)
    return helpers, missing


def _in_order(folded: Folded, items: Sequence[int | Runs], helpers: set[int]) -> tuple[int | Runs, ...]:
    """Items and helpers by place in the graph."""

    def place(item: int | Runs) -> tuple[int, int]:
        return (item.loop.start, item.first) if isinstance(item, Runs) else (item, 0)

    return tuple(sorted([*items, *helpers], key=place))
