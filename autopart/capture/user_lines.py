"""User lines: where in the user's code something happened during capture."""

import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

TORCH_FOLDER = str(Path(torch.__file__).parent)
OWN_FOLDER = str(Path(__file__).parent)


def user_line(frames: Iterable[traceback.FrameSummary]) -> str | None:
    """The innermost of `frames` outside torch and capture, as `file:line: "code"`."""
    outside = [frame for frame in frames if not frame.filename.startswith((TORCH_FOLDER, OWN_FOLDER, "<"))]
    return f'{outside[-1].filename}:{outside[-1].lineno}: "{outside[-1].line}"' if outside else None


def line_that_fixes(export: Callable[[], object]) -> str | None:
    """The line of the model at which `export` turns a symbolic size into a number; None if unknown.

    Export says that it happened and not where, so it is run again with an eye on the place where torch notes it.
    """
    environments: Any = ShapeEnv
    original = getattr(environments, "_set_replacement", None)  # private to torch: without it the line stays unknown
    if original is None:
        return None
    found: list[str] = []

    def watched(environment: ShapeEnv, symbol: Any, target: Any, *rest: Any) -> None:
        stack = traceback.extract_stack()
        inside = next(
            (i for i, frame in enumerate(stack) if frame.name == "forward" and frame.filename.startswith(OWN_FOLDER)),
            None,
        )
        if getattr(target, "is_Integer", False) and inside is not None:
            line = user_line(stack[inside:])
            found.extend([line] if line is not None else [])
        original(environment, symbol, target, *rest)

    environments._set_replacement = watched
    try:
        export()
    finally:
        environments._set_replacement = original
    return found[0] if found else None
