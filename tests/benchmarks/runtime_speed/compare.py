"""Compare: two sides in turns, on every rank of a job, as ratios of the blocks of steps that follow each other."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.runtime_speed.gpt import Size, batch
from tests.benchmarks.runtime_speed.gpt import build as build_model
from tests.benchmarks.runtime_speed.side import Side

BLOCK_S = 0.25  # a block has as many steps as take about so long
WARM_UP = 3
TOLERANCE = 1e-5

Build = Callable[[Size], Side]


@dataclass(frozen=True, slots=True)
class Block:
    """Seconds a step: from when all ranks are ready until all are done, and of CPU on all ranks together."""

    step_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Compared:
    """Pairs of blocks, ours and the peer's, and the most bytes of tensors on any rank in a step of each."""

    pairs: tuple[tuple[Block, Block], ...]
    peak_bytes: tuple[int, int]

    @property
    def time_ratio(self) -> tuple[float, float, float]:
        """The lower quartile, the median and the upper quartile over the pairs."""
        low, middle, high = quantiles([ours.step_s / peer.step_s for ours, peer in self.pairs], n=4)
        return low, middle, high

    @property
    def cpu_ratio(self) -> float:
        """The median over the pairs."""
        return median(ours.cpu_s / peer.cpu_s for ours, peer in self.pairs)

    @property
    def peak_ratio(self) -> float:
        return self.peak_bytes[0] / self.peak_bytes[1]

    def step_s(self, side: int) -> float:
        """Median seconds a step: of ours (0), or of the peer (1)."""
        return median(pair[side].step_s for pair in self.pairs)


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
        order = list(range(len(sides)))
        for index in order if number % 2 else reversed(order):
            found[index].append(_block(sides[index], counts[index]))
    peaks = [_peak_bytes(side, left) for side, left in zip(sides, left_bytes, strict=True)]
    return [
        Compared(tuple(zip(found[0], own, strict=True)), (peaks[0], peak))
        for own, peak in zip(found[1:], peaks[1:], strict=True)
    ]


def _block(side: Side, steps: int) -> Block:
    dist.barrier()
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        side.run()
    computed = torch.tensor(time.process_time() - cpu, dtype=torch.float64)
    dist.barrier()
    elapsed = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
    dist.all_reduce(computed)
    dist.all_reduce(elapsed, op=dist.ReduceOp.MAX)
    return Block(float(elapsed) / steps, float(computed) / steps)


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
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        side.run()
    more = most = 0
    events = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        more += event.nbytes()
        most = max(most, more)
    peak = torch.tensor(sum(parameter.nbytes for parameter in side.parameters) + left_bytes + most)
    dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return int(peak)
