"""CallShape: how a module is called, as text, and with tensors of which shapes."""

from dataclasses import dataclass
from typing import Any

import torch

from autopart.capture.not_kept import not_kept
from autopart.ir.size import Size
from autopart.ir.size import evaluate as size_at


@dataclass(frozen=True)
class TensorShape:
    """What a tensor looks like; sizes may hold the batch symbol."""

    shape: tuple[Size, ...]
    dtype: torch.dtype

    @property
    def is_trained(self) -> bool:
        """Whether such a tensor can have a gradient."""
        return self.dtype.is_floating_point or self.dtype.is_complex

    def random(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Numbers for a batch of that size: normal, or zeros and ones for integers, which are indices or masks."""
        shape = tuple(size_at(size, batch) for size in self.shape)
        if self.is_trained:
            return torch.randn(shape, generator=generator).to(self.dtype)
        return torch.randint(0, 2, shape, generator=generator).to(self.dtype)


@dataclass(frozen=True)
class CallShape:
    """A call of a module: its arguments as text with `{}` for a tensor, and what the tensors look like."""

    text: str
    tensors: tuple[TensorShape, ...]


def call_parts(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, list[torch.Tensor]]:
    """The text of a call of the module at `path`, and its tensors in order.

    Raises:
        CaptureError: an argument that is neither a tensor, a plain value nor made of these.
    """
    tensors: list[torch.Tensor] = []

    def show(item: Any, name: str) -> str:
        if isinstance(item, torch.Tensor):
            tensors.append(item)
            return "{}"
        if type(item) in (tuple, list, torch.Size):
            inner = ", ".join(show(part, name) for part in item)
            if type(item) is list:
                return f"[{inner}]"
            return f"({inner},)" if len(item) == 1 else f"({inner})"
        if type(item) is dict and all(isinstance(key, str) for key in item):
            inner = ", ".join(f"{escaped(repr(key))}: {show(part, name)}" for key, part in item.items())
            return f"{{{{{inner}}}}}"
        if item is None or type(item) in (bool, int, str, torch.dtype):
            return escaped(repr(item))
        if type(item) is float:
            return repr(item) if abs(item) < float("inf") else f'float("{item}")'
        raise not_kept(
            path,
            f"its argument {name!r} is a {type(item).__name__}, and only tensors, plain "
            "values and tuples, lists and dicts of them are supported. Keep a smaller or a larger module whole",
        )

    shown = [show(item, str(number)) for number, item in enumerate(args)]
    shown += [f"{key}={show(item, key)}" for key, item in kwargs.items()]
    return ", ".join(shown), tensors


def escaped(text: str) -> str:
    """`text` as it must stand in a format."""
    return text.replace("{", "{{").replace("}", "}}")
