"""Chain: what the units of a model pass on to each other, and what they own: the same in all layouts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopart.estimate.attention_core import attention_cores
from autopart.ir.folded import Folded
from autopart.ir.units import Unit


@dataclass(frozen=True, slots=True)
class Made:
    """A value that crosses cuts: output number `output` of node `node`.

    `value` is that output's name in the folded graph; what goes around a loop is what enters a run of it.
    """

    value: str
    node: int
    output: int


@dataclass(frozen=True)
class Chain:
    """What is between units and in them.

    Attributes:
        crossing: for every unit, what crosses the cut after it; equal ones are one object.
        targets: of the parameters that a unit uses, by its nodes and its run; "" for one that no other unit uses, so
            that the runs of a loop are alike.
        cores: the attention cores of repeated units, by their nodes.
    """

    crossing: tuple[tuple[Made, ...], ...]
    targets: Mapping[tuple[int, ...], tuple[tuple[str, ...], ...]]
    cores: Mapping[tuple[int, ...], tuple[tuple[int, ...], ...]]


def chain_of(folded: Folded, units: Sequence[Unit]) -> Chain:
    """That of the units of `folded`."""
    targets = {unit.nodes: _targets(folded, unit) for unit in units if unit.run == 0}
    users = Counter(target for runs in targets.values() for own in runs for target in own)
    shared = {
        nodes: tuple(tuple([target if users[target] > 1 else "" for target in own]) for own in runs)
        for nodes, runs in targets.items()
    }
    cores = {unit.nodes: attention_cores(folded.graph, unit.nodes) for unit in units if unit.loop and unit.run == 0}
    return Chain(_crossing(folded, units), shared, cores)


def _targets(folded: Folded, unit: Unit) -> tuple[tuple[str, ...], ...]:
    """For every run of a unit its parameters, under their original names."""
    used = dict.fromkeys(name for index in unit.nodes for name in folded.graph.nodes[index].inputs)
    names = [name for name in used if name in folded.graph.parameter_of]
    runs = folded.weights_in_runs[unit.loop.start] if unit.loop is not None else ({},)
    source = folded.source.parameter_of
    return tuple(tuple([source[table.get(name, name)].target for name in names]) for table in runs)


def _crossing(folded: Folded, units: Sequence[Unit]) -> tuple[tuple[Made, ...], ...]:
    """Of values that are made before a cut and used after it, but for what each stage computes for itself."""
    graph = folded.graph
    made: dict[str, tuple[Made, int]] = {}
    used: dict[str, int] = {}
    for position, unit in enumerate(units):
        if unit.loop is not None:
            for number, enter_name in enumerate(unit.loop.enters):
                enter = unit.loop.start + number
                node = graph.nodes[enter]
                used[node.inputs[0] if unit.run == 0 else f"{enter_name}{unit.run}"] = position
                leave = graph.nodes[unit.loop.body.stop + number].output.name
                last = unit.run + 1 == unit.loop.region.count
                carried = Made(node.output.name, enter, 0)
                made[leave if last else f"{enter_name}{unit.run + 1}"] = carried, position
            if unit.run + 1 < unit.loop.region.count:
                continue  # what all runs use, the last one uses last
        for index in unit.nodes:
            node = graph.nodes[index]
            used.update((name, position) for name in node.inputs)
            if unit.loop is None:
                made.update(
                    (value.name, (Made(value.name, index, output), position))
                    for output, value in enumerate(node.outputs)
                )
    after: list[list[Made]] = [[] for _ in units]
    for name, (own, position) in made.items():
        if name not in graph.recomputable:
            for cut in range(position, used.get(name, position)):
                after[cut].append(own)
    known: dict[tuple[Made, ...], tuple[Made, ...]] = {}
    return tuple([known.setdefault(own, own) for own in map(tuple, after)])
