"""Module state: what the code of a forward pass assigns to attributes of modules, which a captured graph has not.

A buffer that is assigned (`self.mean = 0.9 * self.mean + ...`) is one that is changed in place: export carries only the
latter over. A plain number or flag (`self.steps += 1`) is in a graph as it was when that was captured, and so is a
tensor that is kept in an attribute, or in a list or dict, and is neither a parameter nor a buffer.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopart.errors import CaptureError

TENSORS = (torch.Tensor, torch.fx.Proxy)  # what stands for one while a model is traced
PLAIN = (bool, int, float, str, type(None))
HOLDERS = (list, dict, set, deque, tuple)
INTERNAL = frozenset(vars(nn.Module())) - {"training"}

Place = tuple[str, str]  # the path of a module, the name of an attribute


@dataclass(frozen=True)
class Kept:
    """What an attribute holds: a plain value, a tensor, or a list or such, and then what was in it at that time."""

    value: Any
    inside: Any = None

    @property
    def tensors(self) -> list[Any]:
        """The tensors in it."""
        items = self.inside.values() if isinstance(self.inside, dict) else self.inside or (self.value,)
        return [item for item in items if isinstance(item, TENSORS)]

    def same(self, other: "Kept | None") -> bool:
        """Whether nothing has changed since `other`."""
        if other is None or (self.inside is None) != (other.inside is None):
            return False
        if self.inside is None:
            return _same(self.value, other.value)
        if isinstance(self.inside, dict) and isinstance(other.inside, dict) and list(self.inside) != list(other.inside):
            return False
        pairs = zip(_items(self.inside), _items(other.inside), strict=False)
        return len(self.inside) == len(other.inside) and all(_same(one, two) for one, two in pairs)


Changes = Mapping[Place, tuple[Kept | None, Kept]]


class ModuleState:
    """What a run of `model` does to its modules.

    Attributes:
        changes: the attributes that the last run changed, with what they held before it, None for nothing, and after.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before: Mapping[Place, Kept] = {}
        self.changes: Changes = {}

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Around a run: what it assigns to buffers is written into them, and other attributes are put back.

        Raises:
            CaptureError: a buffer is assigned another shape or dtype.
        """
        buffers = dict(self._model.named_buffers(remove_duplicate=False))
        self._before = _attributes(self._model)
        try:
            yield
            for name, buffer in buffers.items():
                self._write_back(name, buffer)
        finally:
            self.changes = self.so_far()
            _put(self._model, {place: old for place, (old, _) in self.changes.items()})

    def so_far(self) -> Changes:
        """The changes of the run that goes on now."""
        now = _attributes(self._model)
        return {
            place: (self._before.get(place), kept)
            for place, kept in now.items()
            if not kept.same(self._before.get(place))
        }

    def _write_back(self, name: str, buffer: torch.Tensor) -> None:
        path, _, last = name.rpartition(".")
        owner = self._model.get_submodule(path)
        assigned = owner._buffers.get(last)
        if assigned is buffer or not isinstance(assigned, torch.Tensor):
            return
        if (tuple(assigned.shape), assigned.dtype) != (tuple(buffer.shape), buffer.dtype):
            raise CaptureError(
                f"forward assigns a {assigned.dtype} of shape {tuple(assigned.shape)} to the buffer {name!r}, which is "
                f"a {buffer.dtype} of shape {tuple(buffer.shape)}: a buffer must keep both"
            )
        buffer.copy_(assigned.detach() if assigned.requires_grad else assigned)
        owner._buffers[last] = buffer


@contextmanager
def holding(model: nn.Module, values: Mapping[Place, Kept]) -> Iterator[None]:
    """While it lasts, the attributes have these values; then those that they had."""
    before = _attributes(model)
    _put(model, values)
    try:
        yield
    finally:
        _put(model, {place: before.get(place) for place in values})


def _attributes(model: nn.Module) -> dict[Place, Kept]:
    found = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, (*PLAIN, *TENSORS)):
                found[path, name] = Kept(value)
            elif isinstance(value, HOLDERS) and name not in INTERNAL:
                found[path, name] = Kept(value, copy(value) if isinstance(value, dict) else list(value))
    return found


def _put(model: nn.Module, values: Mapping[Place, Kept | None]) -> None:
    for (path, name), kept in values.items():
        own = vars(model.get_submodule(path))
        if kept is None:
            own.pop(name, None)
            continue
        own[name] = kept.value
        if isinstance(kept.value, dict | set):
            kept.value.clear()
            kept.value.update(kept.inside)
        elif isinstance(kept.value, list | deque):
            kept.value.clear()
            kept.value.extend(kept.inside)


def _items(inside: Any) -> Iterable[Any]:
    return inside.values() if isinstance(inside, dict) else inside


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, PLAIN):
        return type(one) is type(two) and bool(one == two)
    return one is two
