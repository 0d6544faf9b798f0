"""Objective: what a tensor search minimizes."""

from dataclasses import dataclass

from autopart.estimate.node import Prices


@dataclass(frozen=True)
class Objective:
    """Seconds of one micro-batch, forward and backward, and what memory is taken to be worth.

    Attributes:
        prices: what nodes and conversions cost.
        micro_batches: how many share what is done once a step: reducing partial gradients of parameters, the optimizer.
        seconds_per_byte: a price on the memory of matrices, to find layouts that take less of it.
        seconds_per_kept_byte: the same on what nodes keep for their backward pass.
    """

    prices: Prices
    micro_batches: int = 8
    seconds_per_byte: float = 0.0
    seconds_per_kept_byte: float = 0.0
