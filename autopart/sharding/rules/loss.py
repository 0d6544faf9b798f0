"""Losses: samples are summed or averaged; the classes of a cross-entropy may be sharded (Megatron-LM, section 3)."""

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.sharding.rule import Letters, Move, Rule

NONE, MEAN, SUM = 0, 1, 2


def cross_entropy(node: Node, graph: Graph) -> Rule | None:
    """(logits, targets, weight?, reduction, ignore_index, label_smoothing); targets are class indices."""
    logits, targets = (graph.values[name] for name in node.inputs[:2])
    if targets.dtype != "int64" or len(logits.shape) != 2 or len(node.inputs) != 2:
        return None
    reduction = node.arg(3, "reduction", MEAN)
    output: Letters = ("n",) if reduction == NONE else ()
    smoothing = node.arg(5, "label_smoothing", 0.0)
    classes = Move("V", (Shard(1), None), (None,), call="cross_entropy", reduces=True)
    moves = (classes,) if smoothing == 0.0 else ()
    mean = reduction == MEAN
    names = (("V", "vocab"),)
    letters = (("n", "V"), ("n",))
    return Rule(letters, (output,), frozenset({"V"}), mean=mean, counts=1 if mean else None, moves=moves, names=names)


def pointwise_loss(node: Node, graph: Graph) -> Rule | None:
    """(input, target, reduction, ...): mse, l1, smooth l1, huber, Kullback-Leibler, binary cross-entropy."""
    shape = graph.values[node.inputs[0]].shape
    if len(node.inputs) != 2 or graph.values[node.inputs[1]].shape != shape:
        return None
    letters = tuple(f"d{dim}" for dim in range(len(shape)))
    place = 3 if node.op.startswith("aten.binary_cross_entropy") else 2
    if node.op.startswith("aten.binary_cross_entropy_with_logits"):
        place = 4
    reduction = node.arg(place, "reduction", MEAN)
    return Rule((letters, letters), (letters if reduction == NONE else (),), mean=reduction == MEAN)


RULES = {
    "aten.cross_entropy_loss.default": cross_entropy,
    "aten.mse_loss.default": pointwise_loss,
    "aten.l1_loss.default": pointwise_loss,
    "aten.smooth_l1_loss.default": pointwise_loss,
    "aten.huber_loss.default": pointwise_loss,
    "aten.kl_div.default": pointwise_loss,
    "aten.binary_cross_entropy.default": pointwise_loss,
    "aten.binary_cross_entropy_with_logits.default": pointwise_loss,
}
