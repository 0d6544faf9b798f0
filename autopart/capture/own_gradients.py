"""Own gradients: a `torch.autograd.Function` says itself what its gradient is, and a captured graph cannot tell."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.autograd import Function

from autopart.capture.user_lines import user_frame
from autopart.errors import CaptureError


@contextmanager
def refusing_own_gradients() -> Iterator[None]:
    """While it lasts, a call of a `torch.autograd.Function` is an error.

    Export would trace its forward pass and forget its backward: reversible layers, straight-through estimators and
    fused kernels would train with other gradients, silently.

    Raises:
        CaptureError: within the block, naming the function and the line.
    """
    original = Function.__dict__["apply"]

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.startswith("torch."):
            return original.__get__(None, cls)(*args, **kwargs)
        frame = user_frame(traceback.extract_stack())
        where = f'{frame.filename}:{frame.lineno}: "{frame.line}"' if frame else "a line that is not known"
        raise CaptureError(
            f"{where} calls {cls.__qualname__}, a torch.autograd.Function: a graph holds its forward pass only, and "
            "its own backward would be lost. Write it in differentiable operations, or as a custom operator with "
            "torch.library.custom_op and register_autograd"
        )

    Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Function.apply = original  # type: ignore[method-assign]
