"""Call log: what a layer did, as a list of calls that is equal for two layers which do the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from autopart.capture.cast_regions import CastRegions

# They bring data of their own into the graph, which each layer then has under a name of its own.
DATA = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)
INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)  # with a list, so do these


@dataclass(frozen=True, slots=True)
class Number:
    """A tensor of a log, by its number."""

    value: int


@dataclass(frozen=True, slots=True)
class Call:
    """`key` tells function, arguments and modes; tensors are numbers in it, and in `result`."""

    key: object
    result: Any


class CallLog:
    """The calls of torch functions that one layer makes.

    Tensors are numbered in the order in which they come up, and those from `outside` the layer are described where they
    do. So two layers with equal calls wire their values alike, and take like tensors from outside at the same places.
    `regions` are counted while the layer runs.
    """

    def __init__(self, regions: CastRegions, take: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self._regions = regions
        self._take = take  # is told of a tensor from outside before its first use, and gives a mark for it
        self.taken: list[torch.Tensor] = []
        self.calls: list[Call] = []
        self.tensors: list[torch.Tensor] = []
        self.outside: list[int] = []
        self._repeatable = True
        self._numbers: dict[int, int] = {}
        self._versions: list[int] = []
        self._kept: list[object] = []  # objects known by their id must live on

    def key(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """What a call does; unknown tensors among the arguments are from outside."""
        if function in DATA or (function in INDEXING and _has_list(args[1])):
            self._repeatable = False
        return (function, _modes(self._regions), self._shown(args), self._shown(dict(kwargs)))

    def add(self, function: Callable[..., Any], key: object, result: Any) -> None:
        """A call of `function` was made, with this result."""
        if function is torch.Tensor.contiguous and self._numbers.get(id(result)) in self.outside:
            self._repeatable = False  # it hands on its argument, for which it then stands in the rest of the model
        self.calls.append(Call(key, replace_tensors(result, lambda tensor: Number(self._number(tensor)))))

    def repeat(self, call: Call, stand_in: Callable[[int], torch.Tensor]) -> Any:
        """Take over `call` from a log that is equal so far; its new tensors are stand-ins for those of that log."""
        self.calls.append(call)

        def tensor(item: Any) -> Any:
            if item.value == len(self.tensors):
                self._number(stand_in(item.value))
            return self.tensors[item.value]

        return replace_tensors(call.result, tensor, Number)

    def results(self, output: Any) -> list[int] | None:
        """The tensors of the layer's `output` that it made itself; None if something cannot be looked into."""
        found: list[int] = []
        outside = set(self.outside)

        def note(tensor: torch.Tensor) -> torch.Tensor:
            number = self._numbers.get(id(tensor), -1)
            if number >= 0 and number not in outside and number not in found:
                found.append(number)
            return tensor

        return found if _is_plain(replace_tensors(output, note)) else None

    def can_be_repeated(self, results: list[int]) -> bool:
        """Whether a layer which did this and made `results` can stand for others.

        Not if it changes a tensor from outside in place, or returns a view of one, which may be changed later.
        """
        outside = [self.tensors[number] for number in self.outside]
        with torch._C.DisableTorchFunction():
            memory = {tensor.untyped_storage()._cdata for tensor in outside}
            shared = any(self.tensors[number].untyped_storage()._cdata in memory for number in results)
        return self._repeatable and not shared and [version(tensor) for tensor in outside] == self._versions

    def _number(self, tensor: torch.Tensor) -> int:
        number = self._numbers.setdefault(id(tensor), len(self.tensors))
        if number == len(self.tensors):
            self.tensors.append(tensor)
        return number

    def _shown(self, item: Any) -> object:
        kind = type(item)
        if isinstance(item, torch.Tensor):
            return self._tensor(item)
        if isinstance(item, tuple | list):
            return (kind, *map(self._shown, item))
        if isinstance(item, dict):
            return (kind, *((key, self._shown(value)) for key, value in item.items()))
        if isinstance(item, slice):
            return (kind, self._shown(item.start), self._shown(item.stop), self._shown(item.step))
        if isinstance(item, torch.SymInt | torch.SymFloat | torch.SymBool):
            return (kind, item.node.expr)
        if item is None or isinstance(item, bool | int | str | torch.dtype | torch.device | torch.layout):
            return (kind, item)
        if isinstance(item, float):
            return (kind, repr(item))  # tells 0.0 from -0.0, and nan equals nan
        self._kept.append(item)
        return (kind, id(item))

    def _tensor(self, tensor: torch.Tensor) -> object:
        number = self._numbers.get(id(tensor))
        if number is not None:
            return Number(number)
        number = self._number(tensor)
        self.outside.append(number)
        self._versions.append(version(tensor))
        if self._take is not None:
            self.taken.append(self._take(tensor))
        return (Number(number), _looks(tensor))


def replace_tensors(item: Any, new: Callable[[Any], Any], kind: type = torch.Tensor) -> Any:
    """`item` with every tensor (or other `kind`) in nested tuples, lists and dicts replaced."""
    if isinstance(item, kind):
        return new(item)
    if type(item) is list:
        return [replace_tensors(part, new, kind) for part in item]
    if type(item) is dict:
        return {key: replace_tensors(part, new, kind) for key, part in item.items()}
    if isinstance(item, tuple) and not isinstance(item, torch.Size):
        parts = [replace_tensors(part, new, kind) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
    return item


def version(tensor: torch.Tensor) -> int:
    """How many times `tensor` was changed in place."""
    with torch._C.DisableTorchFunction():
        return tensor._version


def _looks(tensor: torch.Tensor) -> object:
    """What the code of a layer can see of a tensor from outside, and kernels can depend on."""
    with torch._C.DisableTorchFunction():
        sizes = [*tensor.shape, *tensor.stride(), tensor.storage_offset()]
        shown = tuple(size if isinstance(size, int) else size.node.expr for size in sizes)
        return (*_kind(tensor), tensor.dtype, tensor.device, tensor.layout, tensor.requires_grad, shown)


def _kind(tensor: torch.Tensor) -> tuple[bool, type]:
    """Whether it is a parameter, and of which type: fake ones stand for plain ones, which hidden layers have."""
    kind = type(tensor)
    return isinstance(tensor, nn.Parameter), torch.Tensor if kind in (nn.Parameter, FakeTensor) else kind


def _modes(regions: CastRegions) -> object:
    """The modes that change what a call does."""
    autocast = tuple(
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None for device in ("cpu", "cuda")
    )
    return (torch.is_grad_enabled(), autocast, regions.off > 0)


def _has_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(map(_has_list, index)))


def _is_plain(item: Any) -> bool:
    """Whether `item` is of nested tuples, lists and dicts of tensors and plain values."""
    if type(item) is dict:
        return all(map(_is_plain, item.values()))
    if isinstance(item, tuple) or type(item) is list:
        return all(map(_is_plain, item))
    plain = bool | int | float | str | torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool | None
    return isinstance(item, plain)
