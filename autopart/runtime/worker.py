"""Worker: this rank's part of a plan inside a job: its stages, its groups, and how a step runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

from autopart.errors import LaunchError
from autopart.ir.action import Kind, Schedule
from autopart.ir.program import Program
from autopart.runtime.batches import split_batch
from autopart.runtime.check_agreement import digest
from autopart.runtime.check_parameters import check_parameters
from autopart.runtime.clip import clip_gradients
from autopart.runtime.comm import Comm
from autopart.runtime.executor import Executor, MicroBatch, RankStage
from autopart.runtime.fill_buckets import fill_buckets
from autopart.runtime.gather import gather, gathered
from autopart.runtime.gradients import Gradients
from autopart.runtime.held_tensor import HeldTensor
from autopart.runtime.job_state import JobState
from autopart.runtime.kept import bind_kept, kept_modules
from autopart.runtime.load import fill_constants, fill_stage, load_bare_stage, load_stage
from autopart.runtime.loss_scale import LossScale
from autopart.runtime.mesh import Mesh, build_mesh
from autopart.runtime.precision import Precision
from autopart.runtime.recorder import Recorder
from autopart.runtime.seeded import seeded
from autopart.runtime.share_parameters import share_parameters
from autopart.runtime.shares import Shares
from autopart.runtime.step_schedule import StepSchedule
from autopart.runtime.ties import holders, tie_groups
from autopart.runtime.unsharder import Unsharder
from autopart.schedules.homes import homes


class Worker:
    """Built on every rank of the job at the same time.

    Args:
        program: what all stages do.
        schedule: what every pipeline rank does when; it says which stages a rank has.
        model: gives the weights; those on `meta` get their values later.
        constants: gives the constants.
        replicas: the data-parallel degree.
        precision: in which dtypes passes are computed.
        zero: the ZeRO stage.

    Attributes:
        state: what this rank holds of the model's state.

    Raises:
        UnsupportedError: NCCL could not tell messages of this schedule apart.
    """

    def __init__(
        self,
        program: Program,
        schedule: Schedule,
        model: nn.Module,
        constants: Mapping[str, torch.Tensor],
        replicas: int,
        precision: Precision,
        zero: int = 0,
    ) -> None:
        self.program, self.precision = program, precision
        self.loss_scale = LossScale() if precision.scales else None
        self.mesh: Mesh = build_mesh(homes(schedule), replicas, program.tp)
        zero = zero if replicas > 1 else 0
        self._parts = zero == 3  # a rank keeps shares of weights alone
        self.stages = {stage: self._load(stage, model, constants) for stage in self.mesh.stages}
        self._named = share_parameters([stage.module for stage in self.stages.values()])
        for stage in self.stages.values():
            bind_kept(stage.module, stage.program, model)  # what is kept whole gets the parameters that are shared
        self._shards = {p.name: p for stage in self.stages.values() for p in stage.program.parameters}
        self._ties = tie_groups(program, self.mesh)
        self._first = {name: ranks[0] for name, ranks in holders(program, self.mesh).items()}
        order = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        buckets = fill_buckets(self.stages, self._named, self._ties, self.mesh, order, self._parts)
        self._shares = Shares(buckets, self.mesh, self._parts) if zero else None
        self._leaves = {**self._named, **(self._shares.pieces if self._shares else {})}
        spans = self._shares.spans() if self._shares and self._parts else {}
        held = self._leaves if self._parts else self._named
        self.state = JobState(program, self.mesh, self.stages, held, model, constants, spans)
        if self._parts:
            self._fill(dict(model.named_parameters(remove_duplicate=False)))
        self.agree()
        trained = [bucket for bucket in buckets if bucket.trained]
        self._gradients = Gradients(trained, self._leaves, self.mesh, zero, self._kept())
        self._unsharder = Unsharder(self._shares, self._parts) if self._shares else None
        self._executor = self.executor(program, self.stages)
        self._seed = self._common_seed()
        self._splits = any(action.kind is Kind.WEIGHT for action in schedule[self.mesh.pp_rank])
        self._frozen: frozenset[str] = frozenset()
        self._broken_by = ""
        self._steps = 0

    def _load(self, stage: int, model: nn.Module, constants: Mapping[str, torch.Tensor]) -> RankStage:
        own, tp_rank, tp = self.program.stages[stage], self.mesh.tp_rank, self.program.tp
        comm = Comm(self.mesh.group("tp"), tp_rank, tp)
        if self._parts:
            module = load_bare_stage(self.program, stage, comm, self.mesh.device, self.precision.computed)
            fill_constants(module, own, constants)
        else:
            module = load_stage(self.program, stage, comm, self.mesh.device)
            fill_stage(module, own, model, constants, tp_rank, tp)
        return RankStage(module, comm, own)

    @torch.no_grad()
    def _fill(self, whole: Mapping[str, torch.Tensor]) -> None:
        """Give this rank's shares the model's weights; those on `meta` have none."""
        for name, held in self.state.parameters.items():
            if not whole[name].is_meta:
                held.take_from(whole[name])

    def executor(self, program: Program, stages: Mapping[int, RankStage]) -> Executor:
        """Runs stages that have this rank's parameters."""
        if self._unsharder is not None:
            for stage in stages.values():
                self._unsharder.attach(stage.module)
        return Executor(program, stages, self.mesh, self._unsharder)

    @property
    def module(self) -> nn.Module:
        """The module of this rank's stage, or a list of those of its stages."""
        modules = [stage.module for stage in self.stages.values()]
        return modules[0] if len(modules) == 1 else nn.ModuleList(modules)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What this rank's modules compute with, by the original names: parameters, or tp pieces of them."""
        return self._named

    def leaves(self) -> dict[str, nn.Parameter]:
        """What this rank's optimizer updates, by the original names: the same, or under ZeRO pieces of them."""
        return self._leaves

    def held_leaves(self) -> dict[str, HeldTensor]:
        """The same, with where each lies in the whole parameter."""
        spans = self._shares.spans() if self._shares else {}
        return {
            name: replace(held, local=self._leaves[name], span=spans.get(name))
            for name, held in self.state.parameters.items()
        }

    def buffers(self) -> dict[str, torch.Tensor]:
        """This rank's constants, by the original names."""
        return {name: x for stage in self.stages.values() for name, x in stage.module.named_buffers()}

    def step(
        self,
        batch: Mapping[str, torch.Tensor],
        batched: Mapping[str, int],
        schedule: StepSchedule,
        recorder: Recorder | None = None,
    ) -> torch.Tensor:
        """Forward, backward and gradient sums over this replica's share; the loss of the global batch.

        `batched` are the paths of the items that have samples, each with its rows a sample; they are cut into
        micro-batches as `schedule` has them. A `recorder` is told of the actions.
        """
        micro_batches = self.micro_batches(batch, batched, schedule.sizes)
        before = {name: leaf.grad for name, leaf in self._leaves.items() if leaf.grad is not None}
        for leaf in self._leaves.values():
            leaf.grad = None
        actions, scale = schedule.actions[self.mesh.pp_rank], self.loss_scale
        passes = [a for a in actions if a.kind is not Kind.WEIGHT or self.stages[a.stage].program.puts_off]
        self._gradients.begin(passes, frozenset(before), schedule.most)
        with self.unbroken(before), self.random(str(self._steps)), self.precision.computing(self.mesh.device):
            factor = scale.value if scale else 1.0
            loss = self._executor.run(schedule, micro_batches, self._gradients, factor, recorder)
        self._steps += 1
        for name in self._frozen:  # as torch has it: an optimizer is to leave them alone
            self._leaves[name].grad = None
        if scale is not None:
            scale.unscale(self._leaves.values(), self.mesh.device)
        for name, earlier in before.items():  # gradients of steps before, not yet cleared, add up as they do in torch
            leaf = self._leaves[name]
            leaf.grad = earlier if leaf.grad is None else earlier.add_(leaf.grad)
        return loss

    def check_parameters(self) -> None:
        """Before a step: note which parameters were frozen since; `UnsupportedError` for what it would not heed."""
        self._frozen = check_parameters(self._shards, self._named, self._leaves, self._splits)

    @contextmanager
    def unbroken(self, gradients: Mapping[str, torch.Tensor] | None = None) -> Iterator[None]:
        """Around passes: where they end half way, leaves have the `gradients` of before, and other ranks may wait."""
        try:
            yield
        except BaseException as error:
            if gradients is not None:
                for name, leaf in self._leaves.items():
                    leaf.grad = gradients.get(name)
            self._broken_by = type(error).__name__ if dist.get_world_size() > 1 else ""
            raise

    def check_unbroken(self) -> None:
        """Before what all ranks do together.

        Raises:
            LaunchError: this rank has left the others half way, and they would wait for each other for ever.
        """
        if self._broken_by:
            raise LaunchError(
                f"rank {dist.get_rank()} left its passes half way by {self._broken_by}, and other ranks may still wait "
                "for it: end the job, and go on from a checkpoint"
            )

    def gather_weights(self) -> None:
        """Under ZeRO-1 and 2, give this rank the weights that other replicas have updated; all ranks call it."""
        if self._unsharder is not None:
            self._unsharder.renew()
            self._unsharder.settle()

    @property
    def random_state(self) -> tuple[int, int]:
        """What decides all random numbers of the steps to come: the job's seed, and how many steps there were."""
        return self._seed, self._steps

    @random_state.setter
    def random_state(self, seed_and_steps: tuple[int, int]) -> None:
        self._seed, self._steps = seed_and_steps

    def full_state(self) -> Iterator[tuple[str, torch.Tensor | None]]:
        """Every parameter and buffer of the model's `state_dict` that a stage has, one after another.

        Whole on rank 0, None elsewhere. Of a buffer that training changes it is the first replica's.
        """
        self.gather_weights()
        own = {name: held.local for name, held in {**self.state.parameters, **self.state.buffers}.items()}
        shares = self._shares if self._parts else None

        def local(name: str) -> torch.Tensor | None:
            return shares.whole(name) if shares and name in self._named else own.get(name)

        return gathered(self.program, self.mesh, local, self.state.saved_of)

    @contextmanager
    def random(self, occasion: str) -> Iterator[None]:
        """Random ops draw numbers that the job's seed and the `occasion` decide; afterwards all is as it was.

        The same numbers on tp ranks of the same stages, which agree where nothing is sharded; others elsewhere.
        """
        seed = digest(f"{self._seed} {occasion} {self.mesh.pp_rank} {self.mesh.replica}")
        with seeded(seed, self.mesh.device):
            yield

    def micro_batches(
        self, batch: Mapping[str, torch.Tensor], batched: Mapping[str, int], sizes: Sequence[int]
    ) -> list[MicroBatch]:
        """The micro-batches of a replica's share, on this rank's device."""
        pieces = split_batch(batch, batched, sizes)
        return [{path: tensor.to(self.mesh.device) for path, tensor in piece.items()} for piece in pieces]

    def clip(self, max_norm: float, norm_type: float, error_if_nonfinite: bool) -> torch.Tensor:
        """Scale the gradients so that their norm over the whole model is no more than `max_norm`; the norm before."""
        groups = [self.mesh.group(axis) for axis in (("tp", "dp", "pp") if self._shares else ("tp", "pp"))]
        device = self.mesh.device
        return clip_gradients(self._leaves, self._counted(), groups, device, max_norm, norm_type, error_if_nonfinite)

    def _counted(self) -> frozenset[str]:
        """The parameters that this rank counts in sums over its replica: of tied ones and of whole ones, one rank."""
        return frozenset(
            name for name in self.own_names if self._shards[name].layout.shard is not None or self.mesh.tp_rank == 0
        )

    @property
    def own_names(self) -> frozenset[str]:
        """This rank's parameters without those that a pipeline rank before it has too."""
        return frozenset(name for name in self._named if self._first[name] == self.mesh.pp_rank)

    def full_gradients(self) -> Mapping[str, torch.Tensor]:
        """The gradient of every trained parameter whole, on rank 0."""
        own: dict[str, torch.Tensor | None] = {name: leaf.grad for name, leaf in self._leaves.items()}
        if self._shares is not None:
            own |= self._shares.whole_gradients()
        return gather(self.program, self.mesh, own.get, lambda stage: [p for p in stage.parameters if p.trainable])

    def _common_seed(self) -> int:
        """Rank 0's seed, so that a run is reproduced by `torch.manual_seed` alone."""
        seed = torch.tensor([torch.initial_seed() % 2**62], device=self.mesh.device)
        dist.broadcast(seed, 0)
        return int(seed)

    def agree(self) -> None:
        """Give all holders of a parameter the same values: replicas, tied stages, and tp ranks that hold it whole."""
        with torch.no_grad():
            held = self._leaves if self._parts else self._named
            for name, group in self._ties.items():
                dist.broadcast(held[name].data, dist.get_global_rank(group, 0), group=group)
            for name, parameter in held.items():
                if self.mesh.size("tp") > 1 and self._shards[name].layout.shard is None:
                    self._broadcast(parameter, "tp")
                if self.mesh.size("dp") > 1 and not self._parts:  # no two replicas have the same shares
                    self._broadcast(parameter, "dp")

    def _broadcast(self, parameter: nn.Parameter, axis: str) -> None:
        group = self.mesh.group(axis)
        dist.broadcast(parameter.data, dist.get_global_rank(group, 0), group=group)

    def _kept(self) -> frozenset[str]:
        """The parameters of modules that are kept whole, whose code may do anything."""
        modules = [module for s in self.stages.values() for _, module in kept_modules(s.module, s.program)]
        kept = {id(parameter) for module in modules for parameter in module.parameters()}
        return frozenset(name for name, parameter in self._named.items() if id(parameter) in kept)
