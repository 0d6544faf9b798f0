"""Sizes of pipelines that a schedule can take: micro-batches fewer than stages, as many, and more."""

from collections.abc import Iterator

from autopart.schedules.find import Definition


def sizes(schedule: Definition, ranks: int = 7, micro_batches: int = 20) -> Iterator[tuple[int, int, int]]:
    """(ranks, micro-batches, virtual stages), up to these counts."""
    least, most = schedule.virtual_stages
    for virtual_stages in range(least, (least + 2 if most is None else most) + 1):
        for p in range(1, ranks + 1):
            for m in range(1, micro_batches + 1):
                if not (schedule.whole_rounds and m % p):
                    yield p, m, virtual_stages
