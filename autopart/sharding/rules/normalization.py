"""Norms and softmax: the normalized dims stay whole, all others are free."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.sharding.letters import axis, lettered
from autopart.sharding.rule import Letters, Move, Rule
from autopart.sharding.rules.elementwise import elementwise


def trailing(node: Node, graph: Graph) -> Rule:
    """layer_norm and rms_norm: (x, normalized_shape, weight?, bias?)."""
    shape = graph.values[node.inputs[0]].shape
    normalized = node.args[1]
    count = len(normalized) if isinstance(normalized, tuple) else 1
    free = len(shape) - count
    letters = tuple(f"b{dim}" if dim < free else f"H{dim - free}" for dim in range(len(shape)))
    inputs = (letters, *((letters[free:],) * (len(node.inputs) - 1)))
    return Rule(inputs, (letters,), whole=frozenset(letters[free:]))


def group_norm(node: Node, graph: Graph) -> Rule:
    """(x, groups, weight?, bias?): samples are free, a rank may take whole groups; a group is normalized together."""
    shape, groups = graph.values[node.inputs[0]].shape, node.args[1]
    letters: Letters = ("n", None, *(f"X{dim}" for dim in range(2, len(shape))))
    affine = len(node.inputs) - 1
    units = groups if isinstance(groups, int) else 1
    moves = (Move("g", (Shard(1), *((Shard(0),) * affine)), (Shard(1),), units=units),)
    inputs: tuple[Letters, ...] = (letters, *(((None,),) * affine))
    return Rule(inputs, (letters,), whole=frozenset(letter for letter in letters[2:] if letter), moves=moves)


def instance_norm(node: Node, graph: Graph) -> Rule | None:
    """(x, weight?, bias?, mean?, variance?, use own statistics, ...): samples and channels are free."""
    if any(arg is not None for arg in node.args[3:5]):
        return None
    shape = graph.values[node.inputs[0]].shape
    letters = ("n", "c", *(f"X{dim}" for dim in range(2, len(shape))))
    return Rule((letters, *((("c",),) * (len(node.inputs) - 1))), (letters,), whole=frozenset(letters[2:]))


def batch_norm(node: Node, graph: Graph) -> Rule | None:
    """(x, weight?, bias?, mean?, variance?, training, ...): in training samples are normalized together."""
    shape = graph.values[node.inputs[0]].shape
    training = node.arg(5, "training") is not False
    letters = tuple(f"d{dim}" for dim in range(len(shape)))
    if len(shape) < 2 or (training and any(arg is not None for arg in node.args[3:5])):
        return None  # running statistics would be updated
    whole = frozenset(letters) - {"d1"} if training else frozenset[str]()
    return Rule((letters, *((("d1",),) * (len(node.inputs) - 1))), (letters,), whole=whole)


def native_batch_norm(node: Node, graph: Graph) -> Rule | None:
    """The same with the mean and the inverse deviation of every channel beside the result."""
    rule = batch_norm(node, graph)
    return rule and replace(rule, outputs=(*rule.outputs, ("d1",), ("d1",)))


def along(node: Node, graph: Graph) -> Rule:
    """softmax, log_softmax, cumprod, sort: the dim of the second argument stays whole."""
    shape = graph.values[node.inputs[0]].shape
    dim = node.arg(1, "dim")
    letters = tuple(f"d{i}" for i in range(len(shape)))
    whole = frozenset({letters[dim % len(shape)]}) if isinstance(dim, int) and shape else frozenset(letters)
    return Rule((letters,), (letters,) * len(node.outputs), whole=whole)


def kept_dim(node: Node, graph: Graph) -> Rule:
    """`_weight_norm` (directions, sizes, dim) and renorm (x, p, dim, largest): slices along one dim are independent."""
    rank = len(node.output.shape)
    dim = axis(node, rank, 2, 0)
    letters = lettered(rank, set(range(rank)) - {dim})
    sizes: Letters = tuple(letter if i == dim else None for i, letter in enumerate(letters))
    inputs: tuple[Letters, ...] = (letters, *((sizes,) * (len(node.inputs) - 1)))
    return Rule(inputs, (letters,), whole=frozenset(letters) - {f"d{dim}"})


def cross(node: Node, graph: Graph) -> Rule:
    """(a, b, dim): the dim of three stays whole."""
    rule = elementwise(node, graph)
    rank = len(node.output.shape)
    return replace(rule, whole=frozenset({f"d{axis(node, rank, 2, -1)}"}))


def cumulated(node: Node, graph: Graph) -> Rule:
    """cumsum: along a dim, and linear."""
    rule = along(node, graph)
    return rule if graph.values[node.inputs[0]].dtype == "bool" else replace(rule, linear=frozenset({0}))


def trapezoids(node: Node, graph: Graph) -> Rule:
    """Trapezoid and its sums from the left (y, distance, dim): along a dim, and linear in y."""
    rank = len(graph.values[node.inputs[0]].shape)
    dim = node.arg(2, "dim", -1)
    touched = dim % rank if isinstance(dim, int) else rank - 1
    letters = lettered(rank, {touched})
    summed = node.op == "aten.trapezoid.dx"
    own = [None if place == touched else letter for place, letter in enumerate(letters)]
    output: Letters = tuple(letter for place, letter in enumerate(own) if not summed or place != touched)
    return Rule((letters,), (output,), whole=frozenset({f"X{touched}"}), linear=frozenset({0}))


RULES = {
    "aten.layer_norm.default": trailing,
    "aten.rms_norm.default": trailing,
    "aten.group_norm.default": group_norm,
    "aten.batch_norm.default": batch_norm,
    "aten.native_batch_norm.default": native_batch_norm,
    "aten.instance_norm.default": instance_norm,
    "aten._weight_norm.default": kept_dim,
    "aten.renorm.default": kept_dim,
    "aten.linalg_cross.default": cross,
    "aten.cumulative_trapezoid.dx": trapezoids,
    "aten.trapezoid.dx": trapezoids,
    "aten.softmax.int": along,
    "aten._softmax.default": along,
    "aten.log_softmax.int": along,
    "aten._log_softmax.default": along,
    "aten.cumsum.default": cumulated,
    "aten.cumprod.default": along,
    "aten.cummax.default": along,
    "aten.cummin.default": along,
    "aten.logcumsumexp.default": along,
}
