"""Symbolic len: `len(x)` of a tensor in the model's code is `x.shape[0]`, which may be a symbol.

Python makes a plain number of what `__len__` gives, and the batch size would be fixed to it. So the modules that the
model's classes are from have a `len` of their own for a while, as `torch.fx` does it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def symbolic_len(model: nn.Module, *functions: Any) -> Iterator[None]:
    """While it lasts, it is so in the modules of the classes of `model`, and in those of `functions`."""
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    names = {getattr(item, "__module__", None) for item in (*classes, *functions)}
    found = [vars(sys.modules[name]) for name in names if name in sys.modules and not name.startswith("torch")]
    tables = [table for table in found if "len" not in table]
    for table in tables:
        table["len"] = _len
    try:
        yield
    finally:
        for table in tables:
            del table["len"]


def _len(of: Any) -> Any:
    return of.shape[0] if isinstance(of, torch.Tensor) and of.ndim else len(of)
