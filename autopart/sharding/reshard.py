"""Reshard: turning one layout into another, each conversion being a pair of conjugate collectives."""

from dataclasses import dataclass

from autopart.ir.placement import Layout, Partial, Replicate, Shard


@dataclass(frozen=True, slots=True)
class Conversion:
    """`call` is the runtime's function; `forward` and `backward` name the collectives, None where nothing is sent."""

    call: str
    forward: str | None
    backward: str | None


#      call                    forward           backward
COPY = Conversion("copy", None, "all_reduce")
ALL_REDUCE = Conversion("all_reduce", "all_reduce", None)
ALL_REDUCE_BOTH = Conversion("all_reduce_both", "all_reduce", "all_reduce")
ALL_GATHER = Conversion("all_gather", "all_gather", "reduce_scatter")
GATHER = Conversion("gather", "all_gather", None)
REDUCE_SCATTER = Conversion("reduce_scatter", "reduce_scatter", "all_gather")
SPLIT = Conversion("split", None, "all_gather")
SLICE = Conversion("slice", None, None)
ALL_TO_ALL = Conversion("all_to_all", "all_to_all", "all_to_all")
ONCE = Conversion("once", None, None)
OWN_ROWS = Conversion("own_rows", None, None)
ALL_ROWS = Conversion("all_rows", None, None)


def conversion(source: Layout, target: Layout, needs_gradient: bool) -> Conversion | None:
    """How to make `target` of `source`, or None where that is impossible. The layouts differ.

    R|P from R|R is Megatron's f, R|R from P|R its g; S to R|P and P|R to S are their sequence-parallel halves. `once`
    makes a partial value of a whole one: the first rank keeps it, the others take zeros. A rank's own groups of rows
    are sliced from a whole tensor whose gradient may stay partial, and put into zeros they are a partial one.
    """
    have, want = source.value, target.value
    partial_gradient = isinstance(target.gradient, Partial)
    if isinstance(want, Shard) and want.by is not None:
        whole = isinstance(have, Replicate) and (isinstance(source.gradient, Partial) or not needs_gradient)
        return OWN_ROWS if whole else None
    if isinstance(have, Shard) and have.by is not None:
        return ALL_ROWS if isinstance(want, Partial) and not partial_gradient else None
    if isinstance(have, Shard):
        if isinstance(want, Replicate):
            return ALL_GATHER if partial_gradient else GATHER
        if isinstance(want, Shard) and want.dim != have.dim:
            return ALL_TO_ALL
        return None
    if isinstance(have, Partial):
        if isinstance(want, Replicate):
            return ALL_REDUCE_BOTH if partial_gradient else ALL_REDUCE
        return REDUCE_SCATTER if isinstance(want, Shard) else None
    if isinstance(source.gradient, Partial):
        return SLICE if isinstance(want, Shard) else None
    if isinstance(want, Shard):
        return SPLIT if needs_gradient else SLICE
    if isinstance(want, Partial):
        return ONCE
    return COPY if partial_gradient else None
