"""Causal masks: `nn.Transformer` compares a mask with the triangle, of which a trace has no values.

The answer changes how attention is computed, not what: a mask that is the triangle masks as the triangle does. So the
answer is no, and `simplify` sees triangles in the graph.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules import transformer

DETECTION = "_detect_is_causal_mask"  # private to torch: without it nothing is changed


@contextmanager
def undetected_triangles() -> Iterator[None]:
    """While it lasts, masks are not compared with the triangle; what the caller says of one still holds."""
    before = getattr(transformer, DETECTION, None)
    if before is None:
        yield
        return

    def said(mask: torch.Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
        return is_causal is True

    setattr(transformer, DETECTION, said)
    try:
        yield
    finally:
        setattr(transformer, DETECTION, before)
