"""Units: the pieces of a folded graph between which a pipeline may be cut.

Every run of a loop is one unit; outside loops a unit begins at each node that takes a weight. What depends on inputs
and constants alone belongs to no unit: each stage computes it for itself.
"""

from dataclasses import dataclass

from autopart.ir.folded import Folded, Loop


@dataclass(frozen=True, slots=True)
class Unit:
    """`nodes` are indices into the folded graph, `name` is the module's; a loop's unit is its run number `run`."""

    name: str
    nodes: tuple[int, ...]
    loop: Loop | None = None
    run: int = 0


def units_of(folded: Folded) -> tuple[Unit, ...]:
    """The units of `folded`, in order; together they are the whole model."""
    graph = folded.graph
    units: list[Unit] = []
    pending: list[int] = []

    def close() -> None:
        if pending:
            scope = next((graph.nodes[i].scope for i in pending if graph.nodes[i].scope), graph.nodes[pending[0]].name)
            units.append(Unit(scope, tuple(pending)))
            pending.clear()

    index = 0
    while index < len(graph.nodes):
        loop = folded.loop_of.get(index)
        if loop is not None:
            close()
            names = layer_names(folded, loop)
            units += [Unit(name, tuple(loop.body), loop, run) for run, name in enumerate(names)]
            index = loop.stop
            continue
        node = graph.nodes[index]
        if not all(value.name in graph.recomputable for value in node.outputs):
            if any(name in graph.parameter_of for name in node.inputs):
                close()
            pending.append(index)
        index += 1
    close()
    return tuple(units)


def layer_parts(folded: Folded, loop: Loop) -> tuple[tuple[str, ...], ...] | None:
    """For each run of `loop`, the modules that hold its own weights: ("model.layers.3",), or several, in one order.

    Weights lie under their module by the same name in every run. None where no such modules exist.
    """
    owned = [list(own_weights(folded, loop, run).values()) for run in range(loop.region.count)]
    if not owned[0] or any(len(targets) != len(owned[0]) for targets in owned):
        return None
    depths = [_own_depth([target.split(".") for target in same]) for same in zip(*owned, strict=True)]
    if None in depths:
        return None
    parts = [
        tuple(dict.fromkeys(".".join(target.split(".")[:depth]) for target, depth in zip(targets, depths, strict=True)))
        for targets in owned
    ]
    places = [
        [own.index(".".join(target.split(".")[:depth])) for target, depth in zip(targets, depths, strict=True)]
        for own, targets in zip(parts, owned, strict=True)
    ]
    distinct = len({part for own in parts for part in own}) == sum(map(len, parts))
    return tuple(parts) if distinct and all(place == places[0] for place in places) else None


def _own_depth(paths: list[list[str]]) -> int | None:
    """After how many names the `paths` of one weight in all runs go on alike; None where only the last name differs."""
    alike = 0
    for names in zip(*(reversed(path) for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        alike += 1
    depth = len(paths[0]) - alike
    return depth if alike and depth > 0 and all(len(path) == len(paths[0]) for path in paths) else None


def own_weights(folded: Folded, loop: Loop, run: int) -> dict[str, str]:
    """The targets of the weights that run `run` has for itself, by the folded names."""
    table = folded.weights_in_runs[loop.start][run]
    return {name: folded.source.targets[table[name]] for name in table if folded.copies[name] > 1}


def relative_names(folded: Folded, loop: Loop) -> dict[str, tuple[int, str]]:
    """For each of a loop's own weights, by its folded name: the number of its part, and its name in there."""
    parts = (layer_parts(folded, loop) or ((),))[0]
    found = {}
    for name, target in own_weights(folded, loop, 0).items():
        number = next(i for i, part in enumerate(parts) if target.startswith(f"{part}."))
        found[name] = (number, target.removeprefix(f"{parts[number]}."))
    return found


def layer_names(folded: Folded, loop: Loop) -> tuple[str, ...]:
    """What to call the runs of a loop: by the first module of each that holds weights of its own."""
    parts = layer_parts(folded, loop)
    if parts is not None:
        return tuple(own[0] for own in parts)
    scope = folded.graph.nodes[loop.body.start].scope
    return tuple(f"{scope} run {run}".strip() for run in range(loop.region.count))
