"""Tape: the operations by which a model's tensors got their values, in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class View:
    """A tensor on the CPU as a window on a numbered storage; strides and offset in elements."""

    storage: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def is_all_of(self, storages: Sequence[torch.UntypedStorage]) -> bool:
        """Whether it has every element of its storage, each once."""
        elements = 1
        for stride, size in sorted(zip(self.strides, self.shape, strict=True)):
            if size != 1 and stride != elements:
                return False
            elements *= size
        return elements * self.dtype.itemsize == storages[self.storage].nbytes()


@dataclass(frozen=True, eq=False)
class Draw:
    """What decides the random numbers of an operation.

    Attributes:
        generator: the one that it draws from.
        begins: that generator's state before it, where somebody set it; otherwise the number of the operation after
            which the generator was as it is before this one.
    """

    generator: torch.Generator
    begins: torch.Tensor | int


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of an op.

    Attributes:
        function: the overload.
        args: its positional arguments, a `View` in the place of every tensor.
        kwargs: its keyword arguments, likewise.
        made: what it returns in storages of its own, by the place among the tensors that it returns.
        reads: the storages whose values it needs.
        writes: the storages whose values it changes or makes.
        replaces: those of `writes` of which nothing is left of what was there before.
        draw: where its random numbers come from; None where it draws none.
        fills: the tensor that it does nothing but fill, whatever was in it, with numbers that depend on no other.
    """

    function: torch._ops.OpOverload[Any, Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    made: Mapping[int, View]
    reads: frozenset[int]
    writes: frozenset[int]
    replaces: frozenset[int]
    draw: Draw | None
    fills: View | None


@dataclass(frozen=True, eq=False)
class Tape:
    """A whole tape.

    Attributes:
        operations: all, in order.
        storage_bytes: of each storage.
        given: the values of those that no operation made.
        states: of generators, after those operations of which they are known from earlier replays.
    """

    operations: Sequence[Operation]
    storage_bytes: Sequence[int]
    given: Mapping[int, torch.Tensor]
    states: Mapping[int, torch.Tensor]
