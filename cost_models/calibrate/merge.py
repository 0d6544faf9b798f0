"""Merge: the samples of all processes into one process's."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TypeVar

from cost_models.calibrate.samples import Heads, Message, Move, Product, Samples

S = TypeVar("S", Product, Move, Heads, Message)


def merge(ranks: Sequence[Samples]) -> Samples:
    """Each time the mean over the processes; the least memory that one has, and the most that it takes at first."""
    return replace(
        ranks[0],
        launch_s=fmean(own.launch_s for own in ranks),
        memory_bytes=min(own.memory_bytes for own in ranks),
        context_bytes=max(own.context_bytes for own in ranks),
        products=_means([own.products for own in ranks]),
        moves=_means([own.moves for own in ranks]),
        heads=_means([own.heads for own in ranks]),
        messages=_means([own.messages for own in ranks]),
    )


def _means(ranks: Sequence[Sequence[S]]) -> tuple[S, ...]:
    return tuple(replace(own[0], seconds=fmean(one.seconds for one in own)) for own in zip(*ranks, strict=True))
