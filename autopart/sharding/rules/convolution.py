"""Convolutions and pooling: samples and output channels are free, input channels contracted, positions stay whole."""

from autopart.ir.graph import Graph, Node
from autopart.sharding.rule import Rule


def convolution(node: Node, graph: Graph) -> Rule | None:
    """(x, weight, bias?, stride, padding, dilation, groups) on (samples, channels, positions...)."""
    rank = len(graph.values[node.inputs[0]].shape)
    if rank != len(graph.values[node.inputs[1]].shape):
        return None
    positions = tuple(f"P{dim}" for dim in range(rank - 2))
    window = tuple(f"W{dim}" for dim in range(rank - 2))
    outside = tuple(f"Y{dim}" for dim in range(rank - 2))
    bias = len(node.inputs) > 2
    whole = frozenset((*positions, *window, *outside))
    if node.arg(6, "groups", 1) != 1:  # the number of groups would have to be shared too: samples alone are free
        filters = ("O", "G", *window)
        sources = (("n", "C", *positions), filters, *((("O",),) if bias else ()))
        return Rule(sources, (("n", "O", *outside),), whole=whole | {"O", "G", "C"})
    inputs = [("n", "c", *positions), ("o", "c", *window)]
    once = frozenset({2}) if bias else frozenset()
    return Rule((*inputs, *((("o",),) if bias else ())), (("n", "o", *outside),), whole=whole, once=once)


def pooling(node: Node, graph: Graph) -> Rule:
    """Pooling over the trailing dims: samples and channels are free."""
    shape = graph.values[node.inputs[0]].shape
    spatial = int(node.op.split("pool")[1][0])
    free = tuple(f"c{dim}" for dim in range(len(shape) - spatial))
    inside = tuple(f"P{dim}" for dim in range(spatial))
    outside = tuple(f"Y{dim}" for dim in range(spatial))
    output = (*free, *outside)
    return Rule(((*free, *inside),), (output,) * len(node.outputs), whole=frozenset((*inside, *outside)))


POOLS = """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
"""

RULES = {f"aten.conv{n}d.{kind}": convolution for n in (1, 2, 3) for kind in ("default", "padding")} | {
    f"aten.{name}.default": pooling for name in POOLS.split()
}
