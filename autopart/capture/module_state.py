"""Module state: what the code of a forward pass assigns to attributes of modules, which a captured graph has not.

A buffer that is assigned (`self.mean = 0.9 * self.mean + ...`) is one that is changed in place: export carries only the
latter over. A plain number or flag (`self.steps += 1`) is in a graph as it was when that was captured.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from autopart.errors import CaptureError

PLAIN = (bool, int, float, str, type(None))

Plain = bool | int | float | str | None
Place = tuple[str, str]  # the path of a module, the name of an attribute


class ModuleState:
    """What a run of `model` does to its modules.

    Attributes:
        changes: the plain attributes that the last run changed, with their values before and after it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.changes: Mapping[Place, tuple[Plain, Plain]] = {}

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Around a run: what it assigns to buffers is written into them.

        Raises:
            CaptureError: a buffer is assigned another shape or dtype.
        """
        buffers, before = dict(self._model.named_buffers(remove_duplicate=False)), _plain(self._model)
        yield
        for name, buffer in buffers.items():
            self._write_back(name, buffer)
        now = _plain(self._model)
        self.changes = {
            place: (value, now[place])
            for place, value in before.items()
            if place in now and (type(now[place]), now[place]) != (type(value), value)
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
def holding(model: nn.Module, changes: Mapping[Place, tuple[Plain, Plain]]) -> Iterator[None]:
    """While it lasts, the attributes have their new values; then the old ones."""
    try:
        for (path, name), (_, new) in changes.items():
            setattr(model.get_submodule(path), name, new)
        yield
    finally:
        for (path, name), (old, _) in changes.items():
            setattr(model.get_submodule(path), name, old)


def _plain(model: nn.Module) -> dict[Place, Plain]:
    return {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, PLAIN)
    }
