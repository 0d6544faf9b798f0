"""rounds: in which order a rank of several stages takes its stages and micro-batches."""

from autopart.schedules.pipeline import Pipeline


def rounds(pipeline: Pipeline) -> tuple[tuple[int, int], ...]:
    """(chunk, micro-batch): as many micro-batches as there are ranks go through a rank's chunks before more enter.

    A rank's chunks are its stages, numbered from 0. 2 ranks, 2 chunks, 3 micro-batches: 00 01 10 11 02 12. As many
    micro-batches as ranks: when the first of them has gone round, it finds the first rank just done with the last.
    """
    ranks, micro_batches = pipeline.ranks, pipeline.micro_batches
    return tuple(
        (chunk, micro_batch)
        for first in range(0, micro_batches, ranks)
        for chunk in range(pipeline.virtual_stages)
        for micro_batch in range(first, min(first + ranks, micro_batches))
    )
