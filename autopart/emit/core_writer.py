"""Write the attention cores of a block as methods of their own, which can be computed again in the backward pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from autopart.emit.body import Statement, identifier, unique, write_body
from autopart.emit.function import Function
from autopart.emit.source import BlockSource
from autopart.estimate.attention_core import attention_cores, core_inputs
from autopart.estimate.work import Work, work_of
from autopart.ir.graph import Graph
from autopart.sharding.strategies import without_gradient

Core = tuple[int, ...]
INPUTS = ("query", "key", "value", "mask")


@dataclass(frozen=True, slots=True)
class CoreWriter:
    """Writes cores as methods, and their calls into the `function` of their block.

    `flag`: whether the block is told when to recompute; otherwise it always does.
    """

    function: Function
    flag: bool

    def add(self, indices: Sequence[int]) -> tuple[BlockSource, ...]:
        """Append the nodes at `indices`, with the calls of the cores among them; the methods that are called."""
        graph, methods = self.function.sharded.graph, list[BlockSource]()
        for item in _in_order(graph, indices):
            if isinstance(item, int):
                self.function.add(graph.nodes[item])
            else:
                number = f"_{len(methods) + 1}" if methods else ""
                methods.append(self._method(item, f"attention_core{number}"))
        return tuple(methods)

    def _method(self, core: Core, name: str) -> BlockSource:
        """The method; its call is appended to the function."""
        outer, sharded = self.function, self.function.sharded
        graph = sharded.graph
        arguments: dict[str, str] = {}  # of the method, by their keys in the function
        shapes, converted = {}, {}
        named = dict[str, str]()
        fused = len(core) == 1 and work_of(graph.nodes[core[0]]) is Work.ATTENTION
        for place, (node, slot) in enumerate(core_inputs(graph, core)):
            value, want = graph.values[node.inputs[slot]], sharded.strategies[node.name].inputs[slot]
            key = outer.wanted(value.name, want)
            converted[value.name, want if value.requires_grad else without_gradient(want)] = key
            if key in arguments or key.startswith("self."):
                continue  # weights are at hand
            hint = INPUTS[place] if fused and place < len(INPUTS) else _hint(outer, value.name)
            arguments[key] = named[value.name] = unique(identifier(hint), arguments)
            shapes[arguments[key]] = (sharded.shape(value.name, want), value.dtype)
        first = next(iter(arguments.values()))
        inner = Function(sharded, outer.paths, f"{first}.device", outer.count_index, outer.loop, converted=converted)
        for index in core:
            inner.add(graph.nodes[index])
        results = _results(graph, core)
        lines, returned = write_body(arguments, inner.statements, results)
        lines[:0] = inner.batch_lines(named)
        write = partial(_call_text, name, self.flag)
        last = graph.nodes[core[-1]].outputs[0].name
        shape = sharded.held_shape(last)
        outer.statements.append(
            Statement(tuple(results), tuple(arguments), write, "attention", shape, inline=False, weak=False)
        )
        return BlockSource(name, "", "", tuple(arguments.values()), shapes, tuple(lines), returned)


def _in_order(graph: Graph, indices: Sequence[int]) -> Iterator[int | Core]:
    """The nodes, each core in place of its nodes: behind all that it takes, before all that takes from it."""
    cores = attention_cores(graph, indices)
    core_of = {index: core for core in cores for index in core}
    waiting: list[int] = []  # behind the first node of a core, of which they may take
    open_core: Core = ()
    made: set[str] = set()
    for index in indices:
        core = core_of.get(index)
        if core and not open_core:
            open_core, made = core, {value.name for own in core for value in graph.nodes[own].outputs}
        if core is None:
            if open_core and not made.isdisjoint(graph.nodes[index].inputs):
                made |= {value.name for value in graph.nodes[index].outputs}
                waiting.append(index)
            else:
                yield index
        elif index == open_core[-1]:
            yield open_core
            yield from waiting
            open_core, waiting = (), []


def _results(graph: Graph, core: Core) -> list[str]:
    """The values of a core that are used outside of it."""
    own = set(core)
    made = [value.name for index in core for value in graph.nodes[index].outputs]
    return [name for name in made if name in graph.leaving or not own.issuperset(graph.consumers.get(name, ()))]


def _hint(function: Function, name: str) -> str:
    """What to call a value: by the module of the op that made it, views looked through."""
    graph = function.sharded.graph
    while name in graph.producer:
        node = graph.nodes[graph.producer[name]]
        if work_of(node) is not Work.VIEW or len(node.inputs) != 1:
            return function.hint(node)[0]
        name = node.inputs[0]
    return name


def _call_text(name: str, flag: bool, texts: Sequence[str]) -> str:
    arguments = ", ".join(texts)
    again = f"checkpoint(self.{name}, {arguments}, use_reentrant=False)"
    return f"(\n    {again}\n    if selective\n    else self.{name}({arguments})\n)" if flag else again
