"""Folded: a graph in which every region stands once, between an `enter` and a `leave` node for each carried value.

    x = embedding(...)              x = embedding(...)
    y = block(x)                    h = enter(x)         # h has one layout in every run: the loop's own
    z = block(y)          ───▶      y = block(h)
    w = block(z)                    w = leave(y)         # paid once a run
    return norm(w)                  return norm(w)

Everything after capture works on this graph, so its cost grows with the distinct blocks and not with the layers.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from autopart.ir.graph import Arg, Graph, Node, Ref, Region, Value

ENTER = "autopart.enter"
LEAVE = "autopart.leave"


@dataclass(frozen=True, slots=True)
class Loop:
    """One region of the folded graph, from its first enter at index `start` to its last leave before `stop`."""

    region: Region
    start: int
    stop: int
    enters: tuple[str, ...]
    leaves: tuple[str, ...]

    @property
    def body(self) -> range:
        """The indices of the nodes of one run, without enters and leaves."""
        return range(self.start + len(self.enters), self.stop - len(self.leaves))


@dataclass(frozen=True)
class Folded:
    """`source` is the whole graph, `graph` the folded one; `loops` are in order."""

    source: Graph
    graph: Graph
    loops: tuple[Loop, ...]

    @cached_property
    def loop_of(self) -> dict[int, Loop]:
        """For every index of a node inside a loop, enter and leave included, that loop."""
        return {index: loop for loop in self.loops for index in range(loop.start, loop.stop)}

    @cached_property
    def runs(self) -> tuple[int, ...]:
        """How many times each node of the folded graph runs; an enter once."""
        counts = [1] * len(self.graph.nodes)
        for loop in self.loops:
            for index in range(loop.start + len(loop.enters), loop.stop):
                counts[index] = loop.region.count
        return tuple(counts)

    @cached_property
    def copies(self) -> dict[str, int]:
        """How many parameters or constants each one of the folded graph stands for."""
        counts = dict.fromkeys(self.graph.weights, 1)
        for loop in self.loops:
            for index in loop.body:
                for name, other in zip(self.graph.nodes[index].inputs, self.twin(loop, index, 1).inputs, strict=True):
                    if name in counts and other != name:
                        counts[name] = loop.region.count
        return counts

    @cached_property
    def brought_in(self) -> frozenset[str]:
        """Activations that a loop uses though they are made outside of it: an encoder's output in every run."""
        found: set[str] = set()
        for loop in self.loops:
            inside = {v.name for index in range(loop.start, loop.body.stop) for v in self.graph.nodes[index].outputs}
            used = {name for index in range(loop.body.start, loop.stop) for name in self.graph.nodes[index].inputs}
            found |= used - inside - self.graph.weights
        return frozenset(found)

    def twin(self, loop: Loop, index: int, run: int) -> Node:
        """The node of the whole graph that node `index` of a loop's body stands for in run number `run`."""
        offset = index - loop.body.start
        return self.source.nodes[loop.region.start + run * loop.region.length + offset]

    @cached_property
    def weights_in_runs(self) -> dict[int, tuple[dict[str, str], ...]]:
        """For every loop, by its start, and every run: the weights of the source graph, by those of the folded run."""
        return {loop.start: tuple(self._weights(loop, run) for run in range(loop.region.count)) for loop in self.loops}

    def _weights(self, loop: Loop, run: int) -> dict[str, str]:
        known = self.graph.weights
        table: dict[str, str] = {}
        for index in loop.body:
            names = self.graph.nodes[index].inputs
            if not known.isdisjoint(names):
                table.update(
                    (name, other)
                    for name, other in zip(names, self.twin(loop, index, run).inputs, strict=True)
                    if name in known
                )
        return table

    def renaming(self, loop: Loop, run: int) -> dict[str, str]:
        """From the parameters and values of the folded run to those of run number `run` of the source graph."""
        table: dict[str, str] = {}
        for index in loop.body:
            node, twin = self.graph.nodes[index], self.twin(loop, index, run)
            table.update(zip((v.name for v in node.outputs), (v.name for v in twin.outputs), strict=True))
            for name, other in zip(node.inputs, twin.inputs, strict=True):
                if name in self.graph.weights:
                    table[name] = other
        return table


def folded(graph: Graph) -> Folded:
    """Fold `graph` along its regions."""
    nodes: list[Node] = []
    loops: list[Loop] = []
    position = 0
    for region in graph.regions:
        nodes += graph.nodes[position : region.start]
        start = len(nodes)
        renamed: dict[str, str] = {}
        enters, leaves = [], []
        for number, (initial, _) in enumerate(region.carried):
            name = f"loop{len(loops)}_{number}"
            value = replace(_carried_value(graph, region, number), name=name)
            nodes.append(Node(f"enter_{name}", ENTER, (Ref(initial),), (), (value,)))
            enters.append(nodes[-1].name)
            renamed[initial] = name
        nodes += [_renamed(node, renamed) for node in graph.nodes[region.start : region.start + region.length]]
        for number, (_, (offset, output)) in enumerate(region.carried):
            inner = graph.nodes[region.start + offset].outputs[output]
            result = graph.nodes[region.stop - region.length + offset].outputs[output]
            nodes.append(Node(f"leave_loop{len(loops)}_{number}", LEAVE, (Ref(inner.name),), (), (result,)))
            leaves.append(nodes[-1].name)
        loops.append(Loop(region, start, len(nodes), tuple(enters), tuple(leaves)))
        position = region.stop
    nodes += graph.nodes[position:]
    used = {name for node in nodes for name in node.inputs} | {update.constant for update in graph.updates}
    parameters = tuple(parameter for parameter in graph.parameters if parameter.value.name in used)
    constants = tuple(constant for constant in graph.constants if constant.value.name in used)
    slim = replace(graph, nodes=tuple(nodes), parameters=parameters, constants=constants, regions=())
    return Folded(graph, slim, tuple(loops))


def _carried_value(graph: Graph, region: Region, number: int) -> Value:
    offset, output = region.carried[number][1]
    return graph.nodes[region.start + offset].outputs[output]


def _renamed(node: Node, renamed: dict[str, str]) -> Node:
    def rename(arg: Arg) -> Arg:
        if isinstance(arg, Ref):
            return Ref(renamed.get(arg.name, arg.name))
        return tuple(rename(item) for item in arg) if isinstance(arg, tuple) else arg

    args = tuple(rename(arg) for arg in node.args)
    return replace(node, args=args, kwargs=tuple((key, rename(arg)) for key, arg in node.kwargs))
