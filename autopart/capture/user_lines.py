"""User lines: where in the user's code something happened during capture."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

TORCH_FOLDER = str(Path(torch.__file__).parent)
OWN_FOLDER = str(Path(__file__).parent)


def user_frame(frames: Iterable[traceback.FrameSummary]) -> traceback.FrameSummary | None:
    """The innermost of `frames` outside torch and capture."""
    outside = [frame for frame in frames if not frame.filename.startswith((TORCH_FOLDER, OWN_FOLDER, "<"))]
    return outside[-1] if outside else None


def running_frame() -> traceback.FrameSummary | None:
    """The user's frame that runs now, inside the model that is being captured; None where none does."""
    stack = traceback.extract_stack()
    inside = [i for i, frame in enumerate(stack) if frame.name == "forward" and frame.filename.startswith(OWN_FOLDER)]
    return user_frame(stack[inside[0] :]) if inside else None


def running_module(paths: Mapping[int, str]) -> str:
    """The path of the innermost module whose method runs now, by the ids of the modules' `vars`; "" if none does."""
    for frame, _ in traceback.walk_stack(None):  # from the innermost outwards
        own = frame.f_locals.get("self")
        if isinstance(own, nn.Module) and id(vars(own)) in paths:
            return paths[id(vars(own))]
    return ""


def running_in_torch() -> frozenset[str]:
    """The names of the functions of torch, written in Python, that run now."""
    return frozenset(
        frame.f_code.co_name
        for frame, _ in traceback.walk_stack(None)
        if frame.f_code.co_filename.startswith(TORCH_FOLDER)
    )


@contextmanager
def fixed_sizes(told: Callable[[int], None]) -> Iterator[None]:
    """While it lasts, `told` is given the number when export turns a symbolic size into a number.

    Export says that it happened and not where, so this looks at the place where torch notes it.
    """
    environments: Any = ShapeEnv
    original = getattr(environments, "_set_replacement", None)  # private to torch: without it nothing is told
    if original is None:
        yield
        return

    def watched(environment: ShapeEnv, symbol: Any, target: Any, *rest: Any) -> None:
        if getattr(target, "is_Integer", False):
            told(int(target))
        original(environment, symbol, target, *rest)

    environments._set_replacement = watched
    try:
        yield
    finally:
        environments._set_replacement = original
