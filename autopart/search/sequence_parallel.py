"""Sequence parallelism as a pin: which strategies it leaves.

The sequence is the axis of the second dim of the inputs, whatever the model is.
"""

from collections.abc import Mapping, Sequence

from autopart.errors import PinError
from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Node
from autopart.sharding.infer_axes import SEQUENCE, Axes
from autopart.sharding.strategies import Strategy


def pinned_strategies(pin: bool | None, node: Node, options: tuple[Strategy, ...], axes: Axes) -> tuple[Strategy, ...]:
    """Those of the `options` of `node` that the pin leaves.

    True: what goes from layer to layer is sharded along the sequence where it can be. False: nothing is.
    """
    if pin is None or (pin and node.op not in (ENTER, LEAVE)):
        return options
    left = tuple(own for own in options if shards_sequence(node, own, axes) == pin)
    return left or options


def shards_sequence(node: Node, strategy: Strategy, axes: Axes) -> bool:
    """Whether a strategy shards any tensor along the sequence."""
    names = (*node.inputs, *(value.name for value in node.outputs))
    return any(
        layout.shard is not None and axes.axis_of[(name, layout.shard.dim)].name == SEQUENCE
        for name, layout in zip(names, (*strategy.inputs, *strategy.outputs), strict=True)
    )


def check_sequence(
    options: Mapping[int, Mapping[str, tuple[Strategy, ...]]], nodes: Sequence[Node], axes: Axes
) -> None:
    """Whether sequence parallelism is possible with any of the tp degrees, given every node's `options` for each.

    Raises:
        PinError: nothing that goes from layer to layer can be sharded along the sequence.
    """
    carried = [node for node in nodes if node.op == ENTER]
    if any(shards_sequence(node, x, axes) for own in options.values() for node in carried for x in own[node.name]):
        return
    sizes = {axis.size for axis in axes.axes if axis.name == SEQUENCE}
    why = f"it is {', '.join(map(str, sizes))} long" if sizes else "the model has none"
    tried = " or ".join(f"tp={tp}" for tp in options) or "tp=1"
    raise PinError(
        f"sequence_parallel=True: with {tried} nothing that goes from layer to layer can be sharded along the sequence "
        f"({why}, {len(carried)} values go from layer to layer): choose another tp, or leave sequence_parallel out"
    )
