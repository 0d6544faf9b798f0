"""Kept tensors: those that a model keeps in ordinary attributes, and in lists and such, as neither weights nor buffers.

They are constants of the graph, and each rank has its copy: right for tables, and wrong for what is trained or changed.
"""

import re
from functools import reduce

import torch
from torch import nn

from autopart.errors import CaptureError

CHANGED = re.compile(r"Constant (?:model\.)?(\S+) is mutated in the forward method")


def check_kept_tensor(model: nn.Module, target: str, tensor: torch.Tensor) -> None:
    """Whether a tensor that is kept so, under the name `target`, can be a constant.

    Raises:
        CaptureError: it has gradients, and no optimizer would be given it.
    """
    kind, shown = type(model).__name__, f"of {tensor.dtype} and shape {tuple(tensor.shape)}"
    where = f"the attribute {target} of {kind}" if _has(model, target) else "a list, a dict or a variable"
    if tensor.requires_grad:
        raise CaptureError(
            f"a tensor {shown} has requires_grad=True, and is no parameter of {kind}: it is in {where}, so that no "
            "optimizer would train it. Make it one: self.weight = nn.Parameter(...), nn.ParameterList([...]) for a "
            "list of such and nn.ModuleList([...]) for one of modules; or call requires_grad_(False) on it"
        )


def changed_in_place(model: nn.Module, error: Exception) -> str | None:
    """What to say where export failed as such a tensor is changed in place; None where it failed for something else."""
    found = CHANGED.search(str(error))
    if found is None:
        return None
    name = found[1].rpartition(".")[2]
    return (
        f"forward of {type(model).__name__} changes the tensor {found[1]} in place, which is neither a parameter nor a "
        f"buffer. Register it as a buffer, which forward may change: self.register_buffer({name!r}, ...)"
    )


def _has(model: nn.Module, target: str) -> bool:
    try:
        return isinstance(reduce(getattr, target.split("."), model), torch.Tensor)
    except AttributeError:
        return False
