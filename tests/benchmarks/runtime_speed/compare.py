"""Compare: two sides in turns, on every rank of a job, as ratios of the blocks of steps that follow each other."""

import gc
import os
import time
from dataclasses import dataclass
from statistics import median, quantiles

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.benchmarks.machine import busy_s, most_allocated_bytes
from tests.benchmarks.runtime_speed.gpt import Size, batch
from tests.benchmarks.runtime_speed.gpt import build as build_model
from tests.benchmarks.runtime_speed.side import Build, Side

BLOCK_S = 0.25  # a block has as many steps as take about so long
WARM_UP = 3
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Block:
    """Seconds a step: from when all ranks are ready until all are done, and of CPU on all ranks together.

    `others` is the share of the machine that other programs took meanwhile.
    """

    step_s: float
    cpu_s: float
    others: float


@dataclass(frozen=True, slots=True)
class Compared:
    """Pairs of blocks, ours and the peer's, and the most bytes of tensors on any rank in a step of each."""

    pairs: tuple[tuple[Block, Block], ...]
    peak_bytes: tuple[int, int]

    @property
    def quiet(self) -> list[tuple[Block, Block]]:
        """The half of the pairs in which others took least: these count."""
        return sorted(self.pairs, key=_others)[: (len(self.pairs) + 1) // 2]

    @property
    def others(self) -> float:
        """The most that others took in a pair that counts."""
        return max(map(_others, self.quiet))

    @property
    def time_ratio(self) -> tuple[float, float, float]:
        """The lower quartile, the median and the upper quartile."""
        low, middle, high = quantiles([ours.step_s / peer.step_s for ours, peer in self.quiet], n=4)
        return low, middle, high

    @property
    def cpu_ratio(self) -> float:
        """The median."""
        return median(ours.cpu_s / peer.cpu_s for ours, peer in self.quiet)

    @property
    def peak_ratio(self) -> float:
        """Of the peaks."""
        return self.peak_bytes[0] / self.peak_bytes[1]

    def step_s(self, side: int) -> float:
        """Median seconds a step: of ours (0), or of the peer (1)."""
        return median(pair[side].step_s for pair in self.quiet)


def _others(pair: tuple[Block, Block]) -> float:
    return max(block.others for block in pair)


def compare(size: Size, ours: Build, peers: tuple[Build, ...], rounds: int) -> list[Compared]:
    """Run on every rank of a job: ours against each of the peers, once their gradients are seen to be right."""
    torch.set_num_threads(1)
    expected = _reference(size)
    sides, left_bytes = [], []
    for build in (ours, *peers):
        side = build(size)
        before = _live_bytes()
        for _ in range(WARM_UP):
            side.run()
        _check(side, expected)
        side.clear()
        sides.append(side)
        left_bytes.append(_live_bytes() - before)
    counts = [1 + int(BLOCK_S / _block(side, 2).step_s) for side in sides]
    found: list[list[Block]] = [[] for _ in sides]
    for number in range(rounds):
        for index in sorted(range(len(sides)), reverse=number % 2 == 0):  # what drifts meets neither side first
            found[index].append(_block(sides[index], counts[index]))
    peaks = [_peak_bytes(side, left) for side, left in zip(sides, left_bytes, strict=True)]
    return [
        Compared(tuple(zip(found[0], own, strict=True)), (peaks[0], peak))
        for own, peak in zip(found[1:], peaks[1:], strict=True)
    ]


def _block(side: Side, steps: int) -> Block:
    dist.barrier()
    busy, began, own_s = busy_s(), time.perf_counter(), time.process_time()
    for _ in range(steps):
        side.run()
    own_s = time.process_time() - own_s
    dist.barrier()
    mean = torch.tensor([own_s, time.perf_counter() - began, busy_s() - busy], dtype=torch.float64)
    dist.all_reduce(mean)
    own_s, elapsed_s, all_s = (mean / dist.get_world_size()).tolist()
    cpu_s = own_s * dist.get_world_size()
    return Block(elapsed_s / steps, cpu_s / steps, max(0.0, (all_s - cpu_s) / elapsed_s / (os.cpu_count() or 1)))


def _reference(size: Size) -> dict[str, Tensor]:
    """The gradients of the whole batch in one process."""
    model = build_model(size)
    model(*batch(size)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _check(side: Side, expected: dict[str, Tensor]) -> None:
    """That gradients are those of the whole batch; a rank may have a chunk of one."""
    for name, gradient in side.gradients().items():
        whole = expected[name]
        for dim, (own, every) in enumerate(zip(gradient.shape, whole.shape, strict=True)):
            if own != every:
                whole = whole.chunk(dist.get_world_size(), dim)[dist.get_rank()]
        torch.testing.assert_close(gradient, whole, rtol=TOLERANCE, atol=TOLERANCE)


def _live_bytes() -> int:
    """Of all tensors that Python knows."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) in (Tensor, nn.Parameter) and item.device.type == "cpu"]
    storages = {item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in tensors}
    return sum(storages.values())


def _peak_bytes(side: Side, left_bytes: int) -> int:
    """The most that tensors take on any rank: parameters, what the first steps left, and what a step allocates."""
    side.clear()
    dist.barrier()
    most = most_allocated_bytes(side.run)
    peak = torch.tensor(sum(parameter.nbytes for parameter in side.parameters) + left_bytes + most)
    dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return int(peak)
