"""Layouts: what is pinned in each run."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.local_runs.models import GLOBAL_BATCH


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees, samples a micro-batch, and recomputation."""

    tp: int
    pp: int
    dp: int
    micro_batch: int
    recompute: str

    @property
    def text(self) -> str:
        """As a row's heading."""
        again = {"none": "", "full": " recompute"}.get(self.recompute, f" {self.recompute}")
        return f"tp {self.tp} pp {self.pp} dp {self.dp}, {self.micro_batch} a micro-batch{again}"


def layouts(world: int) -> Iterator[Layout]:
    """Every tp x pp x dp that makes `world`, at three micro-batches each; at the middle one also with recomputation.

    A pipeline's micro-batches are smaller: with fewer than two a stage most of it stands idle.
    """
    for tp in range(1, world + 1):
        for pp in range(1, world // tp + 1):
            if world % (tp * pp):
                continue
            dp = world // tp // pp
            if GLOBAL_BATCH % dp:
                continue
            largest = GLOBAL_BATCH // dp // (2 * pp if pp > 1 else 1)
            sizes = sorted({max(1, largest // share) for share in (1, 2, 4)})
            for size in sizes:
                yield Layout(tp, pp, dp, size, "none")
            yield Layout(tp, pp, dp, sizes[len(sizes) // 2], "full")
