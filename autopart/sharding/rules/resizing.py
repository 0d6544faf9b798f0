"""Resizing of images and signals: interpolation, pixel shuffles, sliding windows, sampling on a grid."""

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.sharding.letters import axis, lettered, linear
from autopart.sharding.rule import Move, Rule
from autopart.sharding.rules.convolution import pooling


def pixels(node: Node, graph: Graph) -> Rule:
    """pixel_shuffle and its converse: (..., channels, rows, columns), each cut into blocks in its own order."""
    rank = len(node.output.shape)
    letters = tuple(f"d{dim}" if dim < rank - 3 else None for dim in range(rank))
    moves = tuple(Move(f"d{dim}", (Shard(dim),), (Shard(dim),)) for dim in range(rank - 3, rank))
    return Rule((letters,), (letters,), linear=linear(node, graph), moves=moves)


def channels(node: Node, graph: Graph) -> Rule:
    """channel_shuffle (x, groups): the channels of every group are shared, so that each rank has some of all groups."""
    rank, groups = len(node.output.shape), node.args[1]
    letters = tuple(f"d{dim}" if dim != 1 else None for dim in range(rank))
    parts = (1,) * groups if isinstance(groups, int) else (1,)
    moves = (Move("d1", (Shard(1, parts),), (Shard(1),)),)
    return Rule((letters,), (letters,), linear=linear(node, graph), moves=moves)


def columns(node: Node, graph: Graph) -> Rule:
    """im2col and col2im (samples?, channels, ...): a window's elements stand together, channel by channel."""
    ranks = len(graph.values[node.inputs[0]].shape), len(node.output.shape)
    image = ranks[0 if "im2col" in node.op else 1]
    place = image - 3
    samples = ("n",) * place
    inside = tuple(f"P{dim}" for dim in range(ranks[0] - place - 1))
    inputs = (*samples, None, *inside)
    output = (*samples, *((None,) * (ranks[1] - place)))
    moves = (Move("c", (Shard(place),), (Shard(place),)),)
    return Rule((inputs,), (output,), whole=frozenset(inside), linear=linear(node, graph), moves=moves)


def windows(node: Node, graph: Graph) -> Rule | None:
    """Unfold (x, dim, size, step): windows of a dim that stays whole, their elements in a new last dim."""
    rank = len(graph.values[node.inputs[0]].shape)
    if rank == 0:
        return None
    dim = axis(node, rank, 1, 0)
    letters = lettered(rank, {dim})
    output = (*(None if i == dim else letter for i, letter in enumerate(letters)), None)
    return Rule((letters,), (output,), whole=frozenset({f"X{dim}"}), linear=linear(node, graph))


def sampled(node: Node, graph: Graph) -> Rule:
    """grid_sampler (x, grid): positions of the grid are free, those of x are looked up."""
    spatial = len(node.output.shape) - 2
    inside = tuple(f"P{dim}" for dim in range(spatial))
    outside = tuple(f"y{dim}" for dim in range(spatial))
    return Rule((("n", "c", *inside), ("n", *outside, None)), (("n", "c", *outside),), whole=frozenset(inside))


def grid(node: Node, graph: Graph) -> Rule:
    """affine_grid_generator (matrices, size): a grid of positions for every matrix."""
    return Rule((("n", None, None),), (("n", *((None,) * (len(node.output.shape) - 1))),), linear=linear(node, graph))


INTERPOLATIONS = """
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""

RULES = {f"aten.{name}.vec": pooling for name in INTERPOLATIONS.split()} | {
    "aten.pixel_shuffle.default": pixels,
    "aten.pixel_unshuffle.default": pixels,
    "aten.channel_shuffle.default": channels,
    "aten.im2col.default": columns,
    "aten.col2im.default": columns,
    "aten.unfold.default": windows,
    "aten.grid_sampler.default": sampled,
    "aten.affine_grid_generator.default": grid,
}
