"""Batch guards: branches of the model's code on the batch size, of which a captured graph has one way alone.

Micro-batches are smaller than the batch that a model would get in one process, and a last batch may be too. Export
takes the way that the example batch goes.
"""

import linecache
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sympy
import torch

from autopart.errors import CaptureError, Place

TORCH = str(Path(torch.__file__).parent)
SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 64)
ADVICE = (
    "a graph has one way alone, and micro-batches are smaller than a batch: compute the same for all sizes, with "
    "tensors (torch.tensor(n).sqrt() for math.sqrt(n)), or leave the branch out"
)


def check_batch_guards(exported: Any, model: str, rows: int = 1) -> None:
    """Whether the model's own code does the same for all batch sizes, as far as it was seen to ask for them.

    A size may be that of a tensor of which every sample has up to `rows` rows.

    Raises:
        CaptureError: it does not; the message has the lines.
    """
    places = {}
    for guard in _guards(exported):
        frame = getattr(getattr(guard, "sloc", None), "framework_loc", None)
        if frame is None or frame.filename.startswith(TORCH) or _holds(guard.expr, rows):
            continue
        line = linecache.getline(frame.filename, frame.lineno).strip()
        if not line.startswith("assert"):
            place = f"{frame.filename}:{frame.lineno}"
            places[place] = Place(place, line, "", f"a condition on the batch size: {guard.expr}", ADVICE)
    if places:
        text = ", ".join(f'{place}: "{item.source}"' for place, item in places.items())
        raise CaptureError(
            f"{model} does something else for other batch sizes ({text}): {ADVICE}", tuple(places.values())
        )


def _guards(exported: Any) -> Iterator[Any]:
    """What export found to decide the way through the code."""
    for node in exported.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        environment = getattr(getattr(value, "fake_mode", None), "shape_env", None)
        if environment is not None:
            yield from environment.guards
            return


def _holds(condition: Any, rows: int) -> bool:
    """Whether it holds at many batch sizes."""
    symbols = condition.free_symbols
    sizes = (sympy.Integer(rows * size) for size in SIZES)
    return all(condition.xreplace(dict.fromkeys(symbols, size)) != sympy.false for size in sizes)
