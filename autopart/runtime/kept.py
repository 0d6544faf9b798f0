"""Kept: a module or function that a stage calls as it is; the module's parameters are the stage's."""

import copy
import importlib
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autopart.ir.program import KeptModule, StageProgram


class Kept:
    """Calls a module's `forward` or a function, and gives the tensors that it makes: one, or a tuple.

    An input that it hands on is none of them.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Call it."""
        given = {id(item) for item in pytree.tree_leaves((args, kwargs))}
        leaves = pytree.tree_leaves(self.forward(*args, **kwargs))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and id(leaf) not in given)
        return tensors[0] if len(tensors) == 1 else tensors


def bind_kept(stage: nn.Module, program: StageProgram, model: nn.Module, evaluates: bool = False) -> None:
    """Give `stage` what it keeps whole: functions, and copies of modules of `model` whose tensors are the stage's.

    The copies are in the mode that the modules are in; where the stage only `evaluates`, in that one.
    """
    if not program.kept:
        return
    own = {**dict(stage.named_parameters(remove_duplicate=False)), **dict(stage.named_buffers(remove_duplicate=False))}
    whole = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    held = {id(tensor): own[name] for name, tensor in whole if name in own}
    for item in program.kept:
        holder: Any = stage if item.loop is None else stage.stacks[item.loop][item.run]  # type: ignore[index]
        holder.kept[item.key] = Kept(_forward(item, model, dict(held), evaluates))


def kept_modules(stage: nn.Module, program: StageProgram) -> Iterator[tuple[str, nn.Module]]:
    """The modules that a stage keeps whole, each with its path in the model."""
    for item in program.kept:
        holder: Any = stage if item.loop is None else stage.stacks[item.loop][item.run]  # type: ignore[index]
        owner = getattr(holder.kept[item.key].forward, "__self__", None)
        if isinstance(owner, nn.Module):
            yield item.path, owner


def _forward(item: KeptModule, model: nn.Module, held: dict[int, Any], evaluates: bool) -> Callable[..., Any]:
    module, colon, name = item.path.partition(":")
    if not colon:
        copied = copy.deepcopy(model.get_submodule(item.path), held)
        found: Callable[..., Any] = (copied.eval() if evaluates else copied).forward
        return found
    function: Any = reduce(getattr, name.split("."), importlib.import_module(module))
    applied: Callable[..., Any] = function.apply
    return applied
