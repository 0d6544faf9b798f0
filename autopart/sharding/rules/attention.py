"""Scaled-dot-product attention: heads are free, keys are softmaxed over and stay whole."""

from autopart.ir.graph import Graph, Node, Ref
from autopart.sharding.rule import Letters, Rule


def attention(node: Node, graph: Graph) -> Rule | None:
    """(q, k, v, mask?, dropout_p, is_causal, *, scale, enable_gqa); q is (..., heads, queries, head size)."""
    shapes = [graph.values[name].shape for name in node.inputs[:3]]
    rank = len(shapes[0])
    if rank < 2 or any(len(shape) != rank for shape in shapes):
        return None
    batch = tuple(f"b{dim}" for dim in range(rank - 2))
    grouped = rank > 2 and shapes[0][-3] != shapes[1][-3]
    single = grouped and shapes[1][-3] == shapes[2][-3] == 1  # every head reads the one key and the one value
    if any(len({shape[dim] for shape in shapes}) > 1 for dim in range(rank - 2 - (1 if grouped else 0))):
        return None
    causal = node.arg(5, "is_causal", False) is True
    query = "Q" if causal else "q"  # a rank with the second half of the queries would see too few keys
    shared: Letters = (*batch[:-1], None) if single else batch
    inputs: list[Letters] = [(*batch, query, "E"), (*shared, "K", "E"), (*shared, "K", "v")]
    if isinstance(mask := node.arg(3, "attn_mask"), Ref):
        shape = graph.values[mask.name].shape
        aligned = (*batch, query, "K")[rank - len(shape) :]
        inputs.append(tuple(letter if size != 1 else None for letter, size in zip(aligned, shape, strict=True)))
    output = (*batch, query, "v")
    dropout = node.arg(4, "dropout_p", 0.0)
    return Rule(
        tuple(inputs),
        (output,),
        whole=frozenset({"Q", "K", "E"}),
        random=isinstance(dropout, float) and dropout > 0,
        names=((batch[-1], "heads"), ("E", "head size"), ("K", "sequence"), (query, "sequence")) if batch else (),
    )


RULES = {"aten.scaled_dot_product_attention.default": attention}
