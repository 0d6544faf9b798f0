"""Kept: a module of the model that a stage calls as it is, with the stage's parameters for its own."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autopart.ir.program import StageProgram


class Kept:
    """Calls `module`, and gives the tensors of what it returns: one, or a tuple."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Call it."""
        leaves = pytree.tree_leaves(self.module(*args, **kwargs))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
        return tensors[0] if len(tensors) == 1 else tensors


def bind_kept(stage: nn.Module, program: StageProgram, model: nn.Module) -> None:
    """Give `stage` copies of the modules of `model` that it keeps whole; their tensors are the stage's."""
    if not program.kept:
        return
    own = {**dict(stage.named_parameters(remove_duplicate=False)), **dict(stage.named_buffers(remove_duplicate=False))}
    whole = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    held = {id(tensor): own[name] for name, tensor in whole if name in own}
    for item in program.kept:
        holder: Any = stage if item.loop is None else stage.stacks[item.loop][item.run]  # type: ignore[index]
        holder.kept[item.key] = Kept(copy.deepcopy(model.get_submodule(item.path), dict(held)))
