"""Attention cores: the parts of a layer that selective recomputation computes again.

q, k ─▶ product ─▶ scale, mask, softmax, dropout ─▶ product with v      or scaled_dot_product_attention, one op

What a core keeps grows with the square of the sequence and takes little to compute again (Korthikanti et al. 2022,
section 5). It is found by its products, whose operands are all activations: no module is known by its name.
"""

from collections.abc import Sequence

from autopart.estimate.work import Work, work_of
from autopart.ir.graph import Graph, Node
from autopart.ir.kept import KEPT


def attention_cores(graph: Graph, indices: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The cores among the nodes at `indices`, which are in order: for each the indices of its nodes.

    A core is what lies on paths from one product of activations to another, with no product with a weight between, or
    an attention op by itself. Nothing outside of a core takes from one part of it and gives to another, and of cores
    whose nodes alternate there is the first.
    """
    nodes = [graph.nodes[index] for index in indices]
    products, walls = _products(graph, nodes)
    if not products:
        return ()
    made = {value.name: place for place, node in enumerate(nodes) for value in node.outputs}
    sources = [
        [] if place in walls else [made[x] for x in node.inputs if x in made and made[x] not in walls]
        for place, node in enumerate(nodes)
    ]
    behind, before = set(products), set(products)
    for place, own in enumerate(sources):
        if behind.intersection(own):
            behind.add(place)
    for place in reversed(range(len(nodes))):
        if place in before:
            before.update(sources[place])
    found: list[list[int]] = []
    for core in _joined(sorted(behind & before), sources):
        follows = not found or found[-1][-1] < core[0]
        if follows and (len(core) > 1 or work_of(nodes[core[0]]) is Work.ATTENTION) and _is_closed(nodes, core):
            found.append(core)
    return tuple(tuple(indices[place] for place in core) for core in found)


def core_inputs(graph: Graph, core: Sequence[int]) -> list[tuple[Node, int]]:
    """Where a core takes values from outside: (node, place among its inputs)."""
    own = {value.name for index in core for value in graph.nodes[index].outputs}
    nodes = [graph.nodes[index] for index in core]
    return [(node, slot) for node in nodes for slot, name in enumerate(node.inputs) if name not in own]


def _products(graph: Graph, nodes: Sequence[Node]) -> tuple[set[int], set[int]]:
    """The places of products of activations, attention among them; and of other products, and of what is kept whole."""
    of_weights: set[str] = set()  # what is made of weights alone
    products: set[int] = set()
    walls: set[int] = set()
    for place, node in enumerate(nodes):
        operands = [name for name in node.inputs if name not in graph.weights and name not in of_weights]
        if node.inputs and not operands:
            of_weights |= {value.name for value in node.outputs}
        trained = len(operands) > 1 and all(graph.values[name].requires_grad for name in operands)
        work = work_of(node)
        if work is Work.ATTENTION or (work is Work.MATMUL and trained and len(operands) == len(node.inputs)):
            products.add(place)
        elif work is Work.MATMUL or node.op == KEPT:
            walls.add(place)
    return products, walls


def _joined(places: Sequence[int], sources: Sequence[Sequence[int]]) -> list[list[int]]:
    """The `places` in groups that `sources` connect."""
    group = {place: [place] for place in places}
    for place in places:
        for source in sources[place]:
            if source in group and group[source] is not group[place]:
                joined = sorted((*group[source], *group[place]))
                group.update(dict.fromkeys(joined, joined))
    return [own for place, own in group.items() if own[0] == place]


def _is_closed(nodes: Sequence[Node], core: Sequence[int]) -> bool:
    """Whether no value of the core comes back to it through nodes outside."""
    own, outside = set(core), set[str]()
    inside = {value.name for place in core for value in nodes[place].outputs}
    for place in range(core[0], core[-1] + 1):
        if place not in own:
            if not (inside | outside).isdisjoint(nodes[place].inputs):
                outside |= {value.name for value in nodes[place].outputs}
        elif not outside.isdisjoint(nodes[place].inputs):
            return False
    return True
