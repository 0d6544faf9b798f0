"""Units: the pieces of a folded graph between which a pipeline may be cut.

Every run of a loop is one unit; outside loops a unit begins at each node that takes a weight. What depends on inputs
and constants alone belongs to no unit: each stage computes it for itself.
"""

from dataclasses import dataclass

from autopart.ir.folded import Folded, Loop


@dataclass(frozen=True, slots=True)
class Unit:
    """`nodes` are indices into the folded graph; of a loop's unit, `run` says which run it is. `name` is the module's."""

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
            units += [Unit(layer_name(folded, loop, run), tuple(loop.body), loop, run) for run in range(loop.region.count)]
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


def layer_prefixes(folded: Folded, loop: Loop) -> tuple[str, ...]:
    """The module path under which each run of `loop` keeps its own weights ("model.layers.3"), in order."""
    prefixes = []
    for run in range(loop.region.count):
        prefixes.append(_common(list(own_weights(folded, loop, run).values())))
    return tuple(prefixes)


def own_weights(folded: Folded, loop: Loop, run: int) -> dict[str, str]:
    """The targets of the weights that run `run` has for itself, by the folded names."""
    targets = {item.value.name: item.target for item in (*folded.source.parameters, *folded.source.constants)}
    table = folded.renaming(loop, run)
    return {name: targets[table[name]] for name in table if name in folded.graph.weights and folded.copies[name] > 1}


def _common(targets: list[str]) -> str:
    split = [target.split(".")[:-1] for target in targets]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def layer_name(folded: Folded, loop: Loop, run: int) -> str:
    """What to call a run of a loop: the path of its weights, or of its first module."""
    own = list(own_weights(folded, loop, run).values())
    return _common(own) or folded.graph.nodes[loop.body.start].scope or f"run {run}"
