"""Measure: the samples of one process, taken at the same time as all others take theirs."""

import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.distributed as dist

from cost_models.calibrate import kernels
from cost_models.calibrate.messages import calls
from cost_models.calibrate.samples import Heads, Message, Move, Product, Samples

BLOCK_S = 5e-3  # what is timed is a block of calls of about so long
MOST_CALLS, LEAST_S = 30, 1e-6
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
DTYPES = ("float32", "float64", "bfloat16", "float16")
ATTENTION_DTYPE = {"cpu": "float32", "cuda": "bfloat16"}


@dataclass
class _Case:
    """Something to time: `run`, `count` times in a block. Where it comes after `work`, that one's time is taken off."""

    run: Callable[[], object]
    work: Callable[[], object] | None = None
    count: int = 1
    seconds: list[float] = field(default_factory=list)

    def time(self, device: torch.device) -> float:
        """Seconds of one run, of a block of them."""
        if self.work is None:
            return self._block_s(device, self.run)
        dist.barrier()
        alone_s = self._block_s(device, self.work)
        dist.barrier()
        return max(0.0, self._block_s(device, self.work, self.run) - alone_s)

    def _block_s(self, device: torch.device, *runs: Callable[[], object]) -> float:
        began = time.perf_counter()
        for _ in range(self.count):
            for run in runs:
                run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / self.count

    @property
    def found_s(self) -> float:
        """The lower quartile, since what others do on the machine only adds time; a difference's median."""
        return quantiles(self.seconds, n=4)[0] if self.work is None else median(self.seconds)


def measure(limit_s: float) -> Samples:
    """What this process gets of the machine while all processes of the group do the same.

    Call it on every rank of a process group. Every case is timed once a round, and the lower quartile over the rounds
    is taken: a disturbance of seconds then touches few rounds of all cases, not all rounds of a few.

    Args:
        limit_s: no round is begun after so many seconds, but for the first three.
    """
    device = torch.device("cuda", dist.get_rank()) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    memory_bytes, context_bytes = _memory(device)
    sizes, attention_dtype = kernels.SIZES[device.type], ATTENTION_DTYPE[device.type]
    products = [
        (Product(name, m, n, k, 0.0), _Case(kernels.product(m, n, k, getattr(torch, name), device)))
        for name in DTYPES
        for m, n, k in sizes.products[: None if name == "float32" else sizes.few]
    ]
    heads = [
        (Heads(attention_dtype, *size, 0.0), _Case(kernels.attention(*size, getattr(torch, attention_dtype), device)))
        for size in sizes.attention
    ]
    moves = [
        (Move(op, passes * rows * columns * 4, many, 0.0), _Case(run))
        for rows, columns in sizes.moves
        for op, (passes, many, run) in kernels.moves(rows, columns, device).items()
    ]
    tiny_kernels, run = kernels.tiny_layer(device)
    tiny = _Case(run)
    # Ranks come to a collective from work that took each of them a little longer or shorter, and so they do here.
    work = kernels.product(*sizes.before_messages, torch.float32, device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    messages = [(call, _Case(call.run, work if call.trips == 1 else None)) for call in calls(backend, device)]
    _time_in_rounds([case for _, case in (*products, *heads, *moves, ("", tiny), *messages)], limit_s, device)
    return Samples(
        processor=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        kind=device.type,
        launch_s=tiny.found_s / tiny_kernels,
        memory_bytes=memory_bytes,
        context_bytes=context_bytes,
        products=tuple(Product(own.dtype, own.m, own.n, own.k, case.found_s) for own, case in products),
        moves=tuple(Move(own.op, own.moved_bytes, own.kernels, case.found_s) for own, case in moves),
        heads=tuple(Heads(own.dtype, own.heads, own.keys, own.size, case.found_s) for own, case in heads),
        messages=tuple(
            Message(call.collective, call.ranks, call.size_bytes, case.found_s / call.trips) for call, case in messages
        ),
    )


def _time_in_rounds(cases: Sequence[_Case], limit_s: float, device: torch.device) -> None:
    """Time all cases, every rank the same one at the same time and as many times."""
    began = time.perf_counter()
    for case in cases:
        case.time(device)  # the first run prepares: memory, threads, connections
    counts = torch.tensor([min(MOST_CALLS, 1 + int(BLOCK_S / max(LEAST_S, case.time(device)))) for case in cases])
    dist.all_reduce(counts, op=dist.ReduceOp.MAX)
    for case, count in zip(cases, counts.tolist(), strict=True):
        case.count = count
    for done in range(MOST_ROUNDS):
        late = torch.tensor(float(done >= LEAST_ROUNDS and time.perf_counter() - began > limit_s))
        dist.all_reduce(late, op=dist.ReduceOp.MAX)
        if late.item():
            break
        for case in cases:
            dist.barrier()
            case.seconds.append(case.time(device))


def _memory(device: torch.device) -> tuple[int, int]:
    """The bytes that one process can have, and those taken before its first tensor."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, total - free
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total // dist.get_world_size(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _processor() -> str:
    """The CPU's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no such file outside Linux
    return platform.processor() or platform.machine()
