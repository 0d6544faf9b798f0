"""Samples: what one process measured, as plain numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """Seconds of a linear layer's three products: forward (m, k) @ (k, n), and the gradients of both operands."""

    dtype: str
    m: int
    n: int
    k: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Move:
    """Seconds of `kernels` memory-bound kernels that read and write `moved_bytes` together."""

    op: str
    moved_bytes: int
    kernels: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Heads:
    """Seconds of causal attention, forward and backward, of `heads` (times samples) of `keys` keys and as many queries.

    Queries, keys and values are `size` wide.
    """

    dtype: str
    heads: int
    keys: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Message:
    """Seconds of one collective, or of a "send" to another rank, of `size_bytes` among `ranks` ranks.

    The size is counted as `cost_models.collective` counts it: the whole tensor, for all_to_all a rank's own.
    """

    collective: str
    ranks: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Samples:
    """All that one process measured while the others measured the same.

    Attributes:
        processor: what it ran on, as the machine names it.
        kind: "cpu" or "cuda".
        launch_s: of a kernel on a tensor of a few elements, as it comes in a forward and backward pass.
        memory_bytes: that one process can have.
        context_bytes: taken before the first tensor.
    """

    processor: str
    kind: str
    launch_s: float
    memory_bytes: int
    context_bytes: int
    products: tuple[Product, ...]
    moves: tuple[Move, ...]
    heads: tuple[Heads, ...]
    messages: tuple[Message, ...]
