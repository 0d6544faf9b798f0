"""Chain: what the units of a model pass on to each other, and what they own: the same in all layouts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopart.ir.folded import Folded
from autopart.ir.units import Unit


@dataclass(frozen=True, slots=True)
class Span:
    """A value that crosses the cuts after units `start` up to `stop`: output number `output` of node `node`.

    `value` is that output's name in the folded graph; what goes around a loop is what enters a run of it.
    """

    value: str
    node: int
    output: int
    start: int
    stop: int


@dataclass(frozen=True)
class Chain:
    """`spans` of what crosses cuts; `targets` of the parameters that a unit uses, by its nodes and its run."""

    spans: tuple[Span, ...]
    targets: Mapping[tuple[int, ...], tuple[tuple[str, ...], ...]]


def chain_of(folded: Folded, units: Sequence[Unit]) -> Chain:
    """That of the units of `folded`."""
    return Chain(tuple(_spans(folded, units)), {unit.nodes: _targets(folded, unit) for unit in units if unit.run == 0})


def _targets(folded: Folded, unit: Unit) -> tuple[tuple[str, ...], ...]:
    """For every run of a unit its parameters, under their original names."""
    used = dict.fromkeys(name for index in unit.nodes for name in folded.graph.nodes[index].inputs)
    names = [name for name in used if name in folded.graph.parameter_of]
    runs = folded.weights_in_runs[unit.loop.start] if unit.loop is not None else ({},)
    source = folded.source.parameter_of
    return tuple(tuple(source[table.get(name, name)].target for name in names) for table in runs)


def _spans(folded: Folded, units: Sequence[Unit]) -> list[Span]:
    """Of values that are made before a cut and used after it, but for what each stage computes for itself."""
    graph = folded.graph
    made: dict[str, tuple[str, int, int, int]] = {}
    used: dict[str, int] = {}
    for position, unit in enumerate(units):
        if unit.loop is not None:
            for number, enter_name in enumerate(unit.loop.enters):
                enter = unit.loop.start + number
                node = graph.nodes[enter]
                used[node.inputs[0] if unit.run == 0 else f"{enter_name}{unit.run}"] = position
                leave = graph.nodes[unit.loop.body.stop + number].output.name
                last = unit.run + 1 == unit.loop.region.count
                made[leave if last else f"{enter_name}{unit.run + 1}"] = (node.output.name, enter, 0, position)
            if unit.run + 1 < unit.loop.region.count:
                continue  # what all runs use, the last one uses last
        for index in unit.nodes:
            node = graph.nodes[index]
            used.update((name, position) for name in node.inputs)
            if unit.loop is None:
                made.update(
                    (value.name, (value.name, index, output, position)) for output, value in enumerate(node.outputs)
                )
    return [
        Span(value, index, output, position, used[name])
        for name, (value, index, output, position) in made.items()
        if name not in graph.recomputable and used.get(name, position) > position
    ]
