"""Size: a tensor dim, either an integer or an expression in the symbol of the batch."""

from functools import lru_cache
from typing import TypeAlias

import sympy

Size: TypeAlias = int | sympy.Expr

BATCH = sympy.Symbol("b", integer=True, positive=True)


def evaluate(size: Size, batch: int) -> int:
    """The integer that `size` is at `batch` samples."""
    return size if isinstance(size, int) else _evaluated(size, batch)


@lru_cache(maxsize=4096)  # a graph has many tensors of few shapes
def _evaluated(size: sympy.Expr, batch: int) -> int:
    return int(size.subs(BATCH, batch))


def product(sizes: tuple[Size, ...]) -> Size:
    """The product of `sizes`; an integer where all of them are."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return result


def is_batched(size: Size) -> bool:
    """Whether `size` grows with the batch."""
    return not isinstance(size, int) and BATCH in size.free_symbols
