"""Own gradients: a `torch.autograd.Function` says itself what its gradient is, and a captured graph cannot tell.

Export would trace its forward pass and forget its backward: reversible layers, straight-through estimators and fused
kernels would train with other gradients, silently. So each call is carried over as one call.
"""

import importlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import reduce
from typing import Any

from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import CheckpointFunction

from autopart.capture.user_lines import running_module, user_frame
from autopart.errors import CaptureError, Place

ADVICE = (
    "a graph holds its forward pass only, and its own backward would be lost. Write it in differentiable operations, "
    "or keep the module that calls it whole"
)


class Applied(nn.Module):
    """A function as a module, called `name`."""

    def __init__(self, function: type[Function], name: str) -> None:
        super().__init__()
        self.function, self.name = function, name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What it gives."""
        return self.function.apply(*args, **kwargs)


@contextmanager
def calling_functions(
    call: Callable[[Applied, tuple[Any, ...]], Any], paths: Mapping[int, str] | None = None
) -> Iterator[None]:
    """While it lasts, `call` is asked for what a `torch.autograd.Function` that is not torch's own gives.

    Args:
        call: takes the function and its arguments.
        paths: of modules, by the ids of their `vars`, to name the one that calls a function.

    Raises:
        CaptureError: within the block, naming the function and the line: it has no name by which it could be imported,
            or `call` raised this error.
    """
    original = Function.__dict__["apply"]

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        if cls is CheckpointFunction:  # computes what its function does, in a region without gradients
            function, _, *given = args
            return function(*given)
        if cls.__module__.startswith("torch."):
            return original.__get__(None, cls)(*args, **kwargs)
        try:
            if kwargs:
                raise CaptureError("it is called with keyword arguments")
            return call(Applied(cls, _name(cls)), args)
        except CaptureError as error:
            frame = user_frame(traceback.extract_stack())
            place, line = (f"{frame.filename}:{frame.lineno}", frame.line or "") if frame else ("", "")
            where = f'{place}: "{line}"' if frame else "a line that is not known"
            module = running_module(paths or {})
            whole = f': keep_whole=["{module}"], or keep_whole="auto"' if module else ""
            reason = f"calls {cls.__qualname__}, a torch.autograd.Function"
            raise CaptureError(
                f"{where} {reason}: {ADVICE}{whole}. It cannot be carried over as it is: {error}",
                (Place(place, line, module, reason, ADVICE, (module,)),),
            ) from error

    Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Function.apply = original  # type: ignore[method-assign]


def _name(cls: type[Function]) -> str:
    """`package.module:Class`"""
    found: Any = None
    with suppress(ImportError, AttributeError):
        found = reduce(getattr, cls.__qualname__.split("."), importlib.import_module(cls.__module__))
    if found is not cls:
        raise CaptureError("it is not defined at the top of a module, from which it could be imported")
    return f"{cls.__module__}:{cls.__qualname__}"
