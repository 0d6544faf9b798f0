"""Measure: real training steps of all plans of a model, on local processes, taken in turns."""

import os
import time
from dataclasses import dataclass
from math import prod
from statistics import median, quantiles

import torch
import torch.distributed as dist

from autopart import api
from autopart.runtime.parallel import Parallel
from cost_models.calibrate.fit_device import products_s
from cost_models.calibrate.kernels import SIZES, product
from cost_models.calibrate.samples import Product
from cost_models.cluster import Cluster
from cost_models.stack import load_stack
from tests.benchmarks.local_runs.models import MODELS
from tests.benchmarks.machine import busy_s, most_allocated_bytes

PROBED = [size for size in SIZES["cpu"].products if 4e7 < prod(size) < 3e8]
BLOCK_S = 0.5  # steps are timed in blocks of about so long


@dataclass(frozen=True, slots=True)
class Block:
    """Seconds a step of a few steps in a row, of the probe before and after them, and the share of the machine that
    others took meanwhile.
    """

    step_s: float
    probe_s: float
    others: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One plan's training: blocks of steps, and the most bytes that tensors took on any rank."""

    blocks: tuple[Block, ...]
    peak_bytes: int

    @property
    def quiet(self) -> tuple[Block, ...]:
        """The half of the blocks in which others took least."""
        return tuple(sorted(self.blocks, key=lambda block: block.others)[: (len(self.blocks) + 1) // 2])

    @property
    def step_s(self) -> float:
        """Their median seconds a step."""
        return median(block.step_s for block in self.quiet)

    @property
    def spread(self) -> float:
        """Half the range between their quartiles, relative to the median."""
        low, middle, high = quantiles([block.step_s for block in self.quiet], n=4)
        return (high - low) / 2 / middle

    def at_speed_s(self, probe_s: float) -> float:
        """Their median, had the machine always been as fast as when the probe takes `probe_s`."""
        return median(block.step_s / block.probe_s for block in self.quiet) * probe_s

    @property
    def others(self) -> float:
        """The most that others took in them."""
        return sorted(block.others for block in self.blocks)[(len(self.blocks) - 1) // 2]


def train(model_name: str, plans: list[api.Plan], rounds: int) -> list[Measured]:
    """Run on every rank: each round takes a block of steps of every plan, so that a disturbance meets all alike."""
    model, batch = MODELS[model_name].made(), MODELS[model_name].batch()
    prepared = api.prepare(model, batch, None)
    jobs, probe = [], Probe()
    for plan in plans:
        program = api.make_program(plan, prepared)
        par = Parallel(plan, program, prepared.captured.graph, model, prepared.captured.constants)
        # One pass over parameters and state, as the estimate has it; torch's default makes several.
        optimizer = torch.optim.AdamW(par.parameters(), lr=1e-4, fused=True)
        jobs.append(_Job(par, optimizer, par.shard_batch(batch), probe))
    blocks: list[list[Block]] = [[] for _ in plans]
    counts = []
    for job in jobs:
        job.block(2)
        seconds = torch.tensor(job.block(2).step_s)
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
        counts.append(1 + int(BLOCK_S / float(seconds)))
    for _ in range(rounds):
        for job, count, own in zip(jobs, counts, blocks, strict=True):
            own.append(job.block(count))
    peaks = [job.peak_bytes() for job in jobs]
    return [Measured(tuple(own), peak) for own, peak in zip(blocks, peaks, strict=True)]


class Probe:
    """A few products that calibration measures too, by which the machine's speed of the moment is known.

    On a machine that is shared with others, it changes within seconds.
    """

    def __init__(self) -> None:
        self._runs = [product(*size, torch.float32, torch.device("cpu")) for size in PROBED]

    def seconds(self) -> float:
        """Seconds of all of them, all ranks at the same time; the mean over the ranks."""
        found = []
        for _ in range(3):
            dist.barrier()
            began = time.perf_counter()
            for run in self._runs:
                run()
            found.append(time.perf_counter() - began)
        seconds = torch.tensor(median(found))
        dist.all_reduce(seconds)
        return float(seconds) / dist.get_world_size()

    @staticmethod
    def calibrated_s(cluster: Cluster) -> float:
        """What the formulas say of it."""
        seconds = sum(products_s(Product("float32", *size, 0.0), cluster.device) for size in PROBED)
        return seconds / load_stack("autopart").product_speed


@dataclass
class _Job:
    par: Parallel[api.Plan]
    optimizer: torch.optim.Optimizer
    batch: object
    probe: "Probe"

    def step(self) -> None:
        self.par.train_step(self.batch)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def block(self, steps: int) -> Block:
        """So many steps, from the moment when all ranks are ready to the moment when all are done."""
        before_s = self.probe.seconds()
        busy, own, began = busy_s(), time.process_time(), time.perf_counter()
        for _ in range(steps):
            self.step()
        dist.barrier()
        elapsed = time.perf_counter() - began
        computed = torch.tensor(time.process_time() - own)
        dist.all_reduce(computed)
        others = (busy_s() - busy - float(computed)) / elapsed / (os.cpu_count() or 1)
        return Block(elapsed / steps, (before_s + self.probe.seconds()) / 2, max(0.0, others))

    def peak_bytes(self) -> int:
        """The most that tensors take in a step: what is there before it, and what the profiler sees allocated."""
        held = sum(parameter.nbytes for parameter in self.par.parameters())
        held += sum(
            value.nbytes for own in self.optimizer.state.values() for value in own.values() if torch.is_tensor(value)
        )
        peak = torch.tensor(held + most_allocated_bytes(self.step))
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
        return int(peak)
