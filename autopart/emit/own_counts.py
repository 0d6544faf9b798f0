"""Own counts: numbers among a call's arguments that count what ranks share, in a rank's own share."""

from collections.abc import Sequence
from dataclasses import replace

from autopart.emit.call import Shape
from autopart.ir.graph import Arg, Node


def own_counts(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Node:
    """`node` with the counts that a rank has.

    Args:
        node: the call on whole tensors.
        inputs: the rank's own shapes of the tensor arguments; empty where all are whole.
        outputs: the same of the outputs.
    """
    name = node.op.split(".")[1]
    own, whole = outputs[0], node.output.shape
    if own == whole:
        return node
    if name.startswith("conv") and node.arg(6, "groups", 1) != 1:
        spatial = int(name.rstrip("d")[-1])
        return _with(node, 6, "groups", _share(node.arg(6, "groups"), own, whole, len(whole) - spatial - 1))
    if name == "group_norm":
        return _with(node, 1, "num_groups", _share(node.args[1], own, whole, 1))
    if name == "affine_grid_generator":
        size = node.args[1] if isinstance(node.args[1], tuple) else ()
        return _with(node, 1, "size", (own[0], *size[1:]))
    if name == "repeat_interleave" and inputs:
        dim = node.arg(2, "dim")
        place = dim % len(own) if isinstance(dim, int) else 0
        made, given = own[place], inputs[0][place]
        if not isinstance(made, int) or not isinstance(given, int):
            return node
        repeated = _with(node, 1, "repeats", made // given)
        return _with(repeated, 3, "output_size", made) if node.arg(3, "output_size") is not None else repeated
    return node


def _share(count: Arg, own: Shape, whole: Shape, dim: int) -> Arg:
    sizes = own[dim], whole[dim]
    if isinstance(count, int) and isinstance(sizes[0], int) and isinstance(sizes[1], int):
        return count * sizes[0] // sizes[1]
    return count


def _with(node: Node, index: int, name: str, arg: Arg) -> Node:
    if index < len(node.args):
        return replace(node, args=(*node.args[:index], arg, *node.args[index + 1 :]))
    return replace(node, kwargs=(*((key, value) for key, value in node.kwargs if key != name), (name, arg)))
