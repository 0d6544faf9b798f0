"""Worker: this rank's part of a plan inside a job: its stage, its groups, and how a step runs."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from autopart.errors import LaunchError
from autopart.ir.action import Schedule
from autopart.ir.placement import Partial
from autopart.ir.program import ParameterShard, Program
from autopart.runtime.comm import Comm
from autopart.runtime.executor import Executor, MicroBatch
from autopart.runtime.gather import gather
from autopart.runtime.gradients import Reduction, reduce_gradients
from autopart.runtime.kept import bind_kept
from autopart.runtime.load import fill_stage, load_stage
from autopart.runtime.mesh import Mesh, build_mesh


class Worker:
    """Built on every rank of the job at the same time.

    Args:
        program: what all stages do.
        schedule: what every stage does when.
        directory: where this rank's source files are.
        model: gives the weights.
        constants: gives the constants.
        replicas: the data-parallel degree.
    """

    def __init__(
        self,
        program: Program,
        schedule: Schedule,
        directory: Path,
        model: nn.Module,
        constants: Mapping[str, torch.Tensor],
        replicas: int,
    ) -> None:
        self.program = program
        self.mesh: Mesh = build_mesh(len(program.stages), replicas, program.tp)
        comm = Comm(self.mesh.group("tp"), self.mesh.tp_rank, program.tp)
        own = program.stages[self.mesh.stage]
        self.stage = load_stage(own, directory, comm, self.mesh.device)
        fill_stage(self.stage, own, model, constants, self.mesh.tp_rank, program.tp)
        bind_kept(self.stage, own, model)
        self._actions = schedule[self.mesh.stage]
        self._named = dict(self.stage.named_parameters())
        self._ties = self._tie()
        self._agree()
        self._reductions = self._reductions_of(own.parameters)
        self._executor = Executor(program, self.stage, comm, self.mesh)
        self._seed = self._common_seed()
        self._steps = 0

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """This rank's pieces, by the original names."""
        return self._named

    def step(
        self, batch: Mapping[str, torch.Tensor], batched: Sequence[str], micro_batch: int, global_batch: int
    ) -> torch.Tensor:
        """Forward, backward and gradient sums over this replica's share; the loss of the global batch.

        `batched` are the paths of the items that have samples, cut into micro-batches of `micro_batch`.
        """
        micro_batches = [
            {path: tensor.to(self.mesh.device) for path, tensor in piece.items()}
            for piece in split_batch(batch, batched, micro_batch)
        ]
        before = {name: parameter.grad for name, parameter in self._named.items()}
        for parameter in self._named.values():
            parameter.grad = None
        devices = [self.mesh.device] if self.mesh.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # The same numbers on the tp ranks of a stage, which agree where nothing is sharded; others elsewhere.
            torch.manual_seed(_digest(f"{self._seed} {self._steps} {self.mesh.stage} {self.mesh.replica}"))
            loss = self._executor.run(self._actions, micro_batches, micro_batch, global_batch)
        self._steps += 1
        reduce_gradients(self._reductions)
        for name, parameter in self._named.items():
            earlier = before[name]
            if earlier is not None:  # gradients of steps before, not yet cleared, add up as they do in torch
                parameter.grad = earlier if parameter.grad is None else earlier.add_(parameter.grad)
        return loss

    def full_state(self) -> Mapping[str, torch.Tensor]:
        """Every parameter whole, and every constant that training changes (the first replica's), on rank 0."""
        own = {**self._named, **dict(self.stage.named_buffers())}
        return gather(self.program, self.mesh, own.get, lambda stage: (*stage.parameters, *stage.updated))

    def full_gradients(self) -> Mapping[str, torch.Tensor]:
        """Every gradient whole, on rank 0."""
        return gather(self.program, self.mesh, lambda name: self._named[name].grad, lambda stage: stage.parameters)

    def _common_seed(self) -> int:
        """Rank 0's seed, so that a run is reproduced by `torch.manual_seed` alone."""
        seed = torch.tensor([torch.initial_seed() % 2**62], device=self.mesh.device)
        dist.broadcast(seed, 0)
        return int(seed)

    def _tie(self) -> list[tuple[str, dist.ProcessGroup]]:
        """The parameters of this stage that other stages have too, each with the group of its holders."""
        homes: dict[str, list[int]] = {}
        for stage, own in enumerate(self.program.stages):
            for parameter in own.parameters:
                homes.setdefault(parameter.name, []).append(stage)
        shared = sorted((name, stages) for name, stages in homes.items() if len(stages) > 1)
        groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
        for stages in sorted({tuple(stages) for _, stages in shared}):
            for replica in range(self.mesh.size("dp")):
                for tp_rank in range(self.mesh.size("tp")):
                    group = dist.new_group([self.mesh.rank_of(stage, replica, tp_rank) for stage in stages])
                    if (replica, tp_rank) == (self.mesh.replica, self.mesh.tp_rank) and self.mesh.stage in stages:
                        groups[stages] = group
        return [(name, groups[tuple(stages)]) for name, stages in shared if tuple(stages) in groups]

    def _agree(self) -> None:
        """Give all holders of a parameter the same values: replicas, tied stages, and tp ranks that hold it whole."""
        own = {parameter.name: parameter for parameter in self.program.stages[self.mesh.stage].parameters}
        with torch.no_grad():
            for name, group in self._ties:
                dist.broadcast(self._named[name].data, dist.get_global_rank(group, 0), group=group)
            for name, parameter in self._named.items():
                if self.mesh.size("tp") > 1 and own[name].layout.shard is None:
                    self._broadcast(parameter, "tp")
                if self.mesh.size("dp") > 1:
                    self._broadcast(parameter, "dp")

    def _broadcast(self, parameter: nn.Parameter, axis: str) -> None:
        group = self.mesh.group(axis)
        dist.broadcast(parameter.data, dist.get_global_rank(group, 0), group=group)

    def _reductions_of(self, parameters: Sequence[ParameterShard]) -> list[Reduction]:
        trained = [parameter for parameter in parameters if parameter.trainable]
        partial = tuple(self._named[p.name] for p in trained if isinstance(p.layout.gradient, Partial))
        reductions = [Reduction(partial, self.mesh.group("tp"))] if partial and self.program.tp > 1 else []
        for name, group in self._ties:
            reductions.append(Reduction((self._named[name],), group))
        everything = tuple(self._named[parameter.name] for parameter in trained)
        return [*reductions, Reduction(everything, self.mesh.group("dp"))]


def split_batch(batch: Mapping[str, torch.Tensor], batched: Sequence[str], micro_batch: int) -> list[MicroBatch]:
    """The micro-batches of a replica's share; items that are not `batched` go to each of them whole."""
    samples = batch[batched[0]].shape[0]
    return [
        {path: item[start : start + micro_batch] if path in batched else item for path, item in batch.items()}
        for start in range(0, samples, micro_batch)
    ]


def check_agreement(fingerprint: str) -> None:
    """Compare what every rank planned.

    Raises:
        LaunchError: ranks that disagree, by number.
    """
    digest = _digest(fingerprint)
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    mine = torch.tensor([digest], dtype=torch.int64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    values = [int(item) for item in everyone]
    different = [rank for rank, value in enumerate(values) if value != values[0]]
    if different:
        raise LaunchError(
            f"ranks {different} have another plan than rank 0: every rank must call parallelize with the same model, "
            "inputs and arguments, and the same versions of autopart and torch"
        )


def _digest(text: str) -> int:
    """A number of 56 bits that `text` decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
