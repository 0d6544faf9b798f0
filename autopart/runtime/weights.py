"""Weights: a module that is nothing but its parameters, under their original names. Emitted classes derive from it."""

from typing import Any

import torch
from torch import nn


class Weights(nn.Module):
    """A module built from keywords: parameters, constants and further `Weights`.

    `module.model.norm` and `module["0"]` reach into it; the second form serves names that are no Python names.
    """

    def __init__(self, /, **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            self._add(name, member)

    def _add(self, name: str, member: Any) -> None:
        if isinstance(member, nn.Parameter):
            self.register_parameter(name, member)
        elif isinstance(member, torch.Tensor):
            self.register_buffer(name, member)
        else:
            self.add_module(name, member)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Register a part, as any module does; and lay it where it is found without `nn.Module.__getattr__`.

        A block names its weights by paths of several parts, so that most of a lookup would be in there.
        """
        super().add_module(name, module)
        self.__dict__[name] = module

    def __getitem__(self, name: str) -> Any:
        for members in (self._modules, self._parameters, self._buffers):
            if name in members:
                return members[name]
        raise KeyError(f"no weights are named {name!r}")

    def hold(self, /, **things: Any) -> None:
        """Keep things that are no weights, whatever their names: a module called "comm" stays reachable as ["comm"]."""
        self.__dict__.update(things)

    def attach(self, paths: tuple[str, ...], module: nn.Module) -> nn.Module:
        """Register `module` under a dotted path, and return it; for several paths, its parts part0, part1, ... each."""
        module.__dict__.setdefault("_built_with", frozenset(name for name, _ in module.named_parameters()))
        if len(paths) > 1:
            for number, path in enumerate(paths):
                self.attach((path,), module.get_submodule(f"part{number}"))
            return module
        (path,) = paths
        *parents, last = path.split(".")
        owner: nn.Module = self
        for name in parents:
            if name not in owner._modules:
                owner.add_module(name, Weights())
            owner = owner.get_submodule(name)
        existing = owner._modules.get(last)
        if existing is not None:  # weights outside the block live under the same path
            _take_over(module, existing)
        owner.add_module(last, module)
        return module


def built_with(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that an attached module was made with, and not those that live under the same path."""
    names = module.__dict__["_built_with"]
    return {name: x for name, x in module.named_parameters(remove_duplicate=False) if name in names}


def _take_over(module: nn.Module, other: nn.Module) -> None:
    """Give `module` the weights of `other`, at the same places."""
    for name, child in other.named_children():
        own = module._modules.get(name)
        if own is None:
            module.add_module(name, child)
        else:
            _take_over(own, child)
    for name, parameter in other.named_parameters(recurse=False):
        module.register_parameter(name, parameter)
    for name, buffer in other.named_buffers(recurse=False):
        module.register_buffer(name, buffer)


def parameter(*shape: Any, dtype: torch.dtype, trainable: bool = True) -> nn.Parameter:
    """An uninitialized parameter of `shape`; the loader fills it. `()` makes a scalar."""
    size = () if shape == ((),) else shape
    return nn.Parameter(torch.empty(size, dtype=dtype), requires_grad=trainable)


def constant(*shape: Any, dtype: torch.dtype) -> torch.Tensor:
    """An uninitialized tensor that is never trained; the loader fills it."""
    return torch.empty(() if shape == ((),) else shape, dtype=dtype)
