"""Losses: samples are summed or averaged; the classes of a cross-entropy may be sharded (Megatron-LM, section 3)."""

from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Shard
from autopart.ir.size import Size
from autopart.sharding.rule import Letters, Move, Rule

NONE, MEAN, SUM = 0, 1, 2


def cross_entropy(node: Node, graph: Graph) -> Rule | None:
    """(logits, targets, weight?, reduction, ignore_index, label_smoothing), the classes in dim 1.

    Targets are class indices, or probabilities of all classes; nll_loss_nd, of indices, takes no smoothing.
    """
    logits, targets = (graph.values[name] for name in node.inputs[:2])
    rank = len(logits.shape)
    if rank < 2 or node.arg(3, "reduction", MEAN) not in (NONE, MEAN, SUM):
        return None
    soft = len(targets.shape) == rank
    weighted = len(node.inputs) == 3
    reduction = node.arg(3, "reduction", MEAN)
    averaged = reduction == MEAN
    whole = {"V"}
    places: tuple[str, ...] = ("n", *(f"p{dim}" for dim in range(2, rank)))
    if averaged and weighted and not soft:  # divided by the weights of all samples
        places = tuple(place.upper() for place in places)
        whole.update(places)
    letters: Letters = (places[0], "V", *places[1:])
    inputs = (letters, letters if soft else places, *((("V",),) if weighted else ()))
    smoothing = node.arg(5, "label_smoothing", 0.0) if node.op == "aten.cross_entropy_loss.default" else 0.0
    classes = Move("V", (Shard(1), None), (None,), call="cross_entropy", reduces=True)
    plain = node.op == "aten.cross_entropy_loss.default" and rank == 2 and not soft and not weighted
    return Rule(
        inputs,
        (places if reduction == NONE else (),),
        frozenset(whole),
        mean=averaged,
        counts=1 if averaged and not soft else None,
        moves=(classes,) if plain and smoothing == 0.0 else (),
        names=(("V", "vocab"),),
    )


def pointwise_loss(node: Node, graph: Graph) -> Rule | None:
    """(input, target, ..., reduction, ...): further operands are weights, broadcast."""
    shapes = [graph.values[name].shape for name in node.inputs]
    shape = shapes[0]
    if shapes[1] != shape or any(len(other) > len(shape) for other in shapes):
        return None
    letters = tuple(f"d{dim}" for dim in range(len(shape)))

    def aligned(other: tuple[Size, ...]) -> Letters:
        dims = range(len(shape) - len(other), len(shape))
        return tuple(letters[dim] if size == shape[dim] else None for dim, size in zip(dims, other, strict=True))

    name = node.op.split(".")[1]
    reduction = node.arg(REDUCTION_AT.get(name, 2), "reduction", MEAN)
    output = letters if reduction == NONE else ()
    return Rule(tuple(aligned(other) for other in shapes), (output,), mean=reduction == MEAN)


def rowwise_loss(node: Node, graph: Graph) -> Rule | None:
    """A loss a row of vectors: triplet_margin_loss (three vectors), cosine_embedding_loss (two, and a target)."""
    shapes = [graph.values[name].shape for name in node.inputs]
    rows = tuple(f"d{dim}" for dim in range(len(shapes[0]) - 1))
    count = 3 if node.op == "aten.triplet_margin_loss.default" else 2
    if not rows or any(shape != shapes[0] for shape in shapes[:count]):
        return None
    if any(shape != shapes[0][:-1] for shape in shapes[count:]):
        return None
    reduction = node.arg(REDUCTION_AT[node.op.split(".")[1]], "reduction", MEAN)
    inputs = (((*rows, "V"),) * count) + ((rows,) * (len(shapes) - count))
    output = rows if reduction == NONE else ()
    return Rule(inputs, (output,), whole=frozenset({"V"}), mean=reduction == MEAN)


def margins(node: Node, graph: Graph) -> Rule:
    """(scores, targets, ...): a number a row of classes, of one class a row or of several."""
    scores, targets = (graph.values[name].shape for name in node.inputs[:2])
    rows = ("n",) * (len(scores) - 1)
    several = node.op == "aten.multilabel_margin_loss.default"
    reduction = node.arg(REDUCTION_AT.get(node.op.split(".")[1], 2), "reduction", MEAN)
    labels = (*rows, *((("C",) if several else ()) if len(targets) > len(rows) or several else ()))
    inputs = ((*rows, "C"), labels, *((("C",),) * (len(node.inputs) - 2)))
    output = rows if reduction == NONE else ()
    return Rule(inputs, (output,), whole=frozenset({"C"}), mean=reduction == MEAN)


# Where the reduction is not the third argument.
REDUCTION_AT = {
    "binary_cross_entropy": 3,
    "binary_cross_entropy_with_logits": 4,
    "cosine_embedding_loss": 4,
    "hinge_embedding_loss": 3,
    "margin_ranking_loss": 4,
    "multi_margin_loss": 5,
    "poisson_nll_loss": 5,
    "triplet_margin_loss": 7,
}

RULES = {
    "aten.cross_entropy_loss.default": cross_entropy,
    "aten.nll_loss_nd.default": cross_entropy,
    "aten.triplet_margin_loss.default": rowwise_loss,
    "aten.cosine_embedding_loss.default": rowwise_loss,
    "aten.multi_margin_loss.default": margins,
    "aten.multilabel_margin_loss.default": margins,
    "aten.hinge_embedding_loss.default": pointwise_loss,
    "aten.margin_ranking_loss.default": pointwise_loss,
    "aten.poisson_nll_loss.default": pointwise_loss,
    "aten.soft_margin_loss.default": pointwise_loss,
    "aten.mse_loss.default": pointwise_loss,
    "aten.l1_loss.default": pointwise_loss,
    "aten.smooth_l1_loss.default": pointwise_loss,
    "aten.huber_loss.default": pointwise_loss,
    "aten.kl_div.default": pointwise_loss,
    "aten.binary_cross_entropy.default": pointwise_loss,
    "aten.binary_cross_entropy_with_logits.default": pointwise_loss,
}
