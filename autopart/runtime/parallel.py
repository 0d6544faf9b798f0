"""Parallel: a model with its plan, ready to train inside a job, and to be planned, printed and emitted anywhere."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from autopart.errors import BatchError, LaunchError, UnsupportedError
from autopart.ir.action import Kind
from autopart.ir.graph import Graph
from autopart.ir.plan import PlanData
from autopart.ir.plan_json import write_plan
from autopart.ir.program import Program
from autopart.runtime.agreed import agreed
from autopart.runtime.batches import Batches
from autopart.runtime.check_agreement import check_agreement
from autopart.runtime.evaluation import Evaluation, Variant
from autopart.runtime.parallel_state import ParallelState
from autopart.runtime.precision import precision_named
from autopart.runtime.recorder import Recorder
from autopart.runtime.step_schedule import StepSchedule, evaluation_schedule, training_schedule
from autopart.runtime.worker import Worker
from autopart.schedules.find import find_schedule, schedule_names
from autopart.schedules.timeline import Timeline
from autopart.sharding.batch_sizes import BatchSizes

PlanT = TypeVar("PlanT", bound=PlanData)
NO_WEIGHTS = "no weights"  # the name of the empty parameter of a rank that has none to train


class Parallel(ParallelState, Generic[PlanT]):
    """What `autopart.parallelize` returns.

    Inside a job of `plan.world` ranks it holds this rank's stage; outside, `plan`, `program` and `emit` work alone.

    Attributes:
        plan: the plan, which prints as a table.
        program: the emitted sources, and what the executor knows of each stage.
        module: this rank's stage, an `nn.Module` with its parameters under their original names, or a `ModuleList` of
            its stages; None outside a job.
    """

    def __init__(
        self,
        plan: PlanT,
        program: Program,
        graph: Graph,
        model: nn.Module,
        constants: Mapping[str, torch.Tensor],
        variant: Callable[[bool], Variant] | None = None,
        plain: Mapping[str, object] | None = None,
    ) -> None:
        schedule = find_schedule(plan.schedule)
        if Kind.BACKWARD not in schedule.kinds:
            trains = [name for name in schedule_names() if Kind.BACKWARD in find_schedule(name).kinds]
            raise UnsupportedError(
                f"schedule {plan.schedule!r} has no backward pass, and so cannot train: plan with schedule= one of "
                f"{', '.join(trains)}"
            )
        self.plan = plan
        self.program = program
        self._graph, self._model = graph, model
        self._batches = Batches(graph, plan.dp, plan.global_batch, plain)
        self._sizes = BatchSizes(graph)
        self._recorded: Timeline | None = None
        self._worker: Worker | None = None
        self._variant = variant
        self._evaluations: dict[bool, Evaluation] = {}
        self._none = nn.Parameter(torch.empty(0))
        self._schedule = cache(partial(training_schedule, plan, program))
        if dist.is_initialized() and dist.get_world_size() == plan.world:
            sources = "\n".join(text for _, text in program.sources)
            check_agreement(
                f"{plan.fingerprint} {plan.cuts} {plan.nodes} {plan.parameters} {plan.micro_batch} {plan.global_batch} "
                f"{plan.precision} {plan.zero} {sources}"
            )
            share = self._schedule(plan.global_batch // plan.dp)
            self._worker = Worker(
                program, share.actions, model, constants, plan.dp, precision_named(plan.precision), plan.zero
            )

    def __repr__(self) -> str:
        plan = self.plan
        where = "outside a job" if self._worker is None else f"rank {dist.get_rank()} of {plan.world}"
        return f"Parallel({plan.model}, tp={plan.tp}, pp={plan.pp}, dp={plan.dp}, {plan.schedule}; {where})"

    @property
    def module(self) -> nn.Module | None:
        """This rank's stage (a ModuleList where it has several), or None outside a job."""
        return None if self._worker is None else self._worker.module

    @property
    def loss_scale(self) -> float:
        """What the next step multiplies the loss by, with precision="fp16-mixed"; otherwise 1."""
        scale = self._inside().loss_scale
        return 1.0 if scale is None else scale.value

    @property
    def recorded(self) -> Timeline | None:
        """When each rank of the pipeline computed what in the last step with `trace=True`; rank 0 alone has it.

        It is that of the first replica and its first tp ranks. `plan.save_timeline(path, recorded=...)` lays it beside
        what was predicted.
        """
        return self._recorded

    def train_step(self, batch: Any, trace: bool = False) -> torch.Tensor:
        """Forward, backward and gradient sums over this replica's share of the global batch.

        Args:
            batch: the share, in the form of the model's arguments: a mapping, a tuple or a tensor. Its size is
                `global_batch / dp` samples, or less: then the last micro-batch is smaller, or there are fewer. Replicas
                may have shares of different sizes. `shard_batch` takes a share from a global batch.
            trace: record when each action of the schedule begins and ends, for `recorded`; on all ranks or on none.

        Returns:
            The mean loss over the whole global batch, a scalar, the same on every rank. Gradients are in the `grad` of
            the parameters, added to what is there; call the optimizer's `zero_grad` between steps as ever. With
            precision="fp16-mixed" they are those of the loss itself, not of the scaled one; where they overflowed, on
            any rank, this step adds none on any, so that after `zero_grad` the optimizer's step changes nothing.

        Raises:
            LaunchError: outside a job of the plan's size; or this rank left an earlier step half way.
            CheckpointError: the model was built on `meta`, and its weights have no values yet.
            BatchError: a batch of another size or form, on any rank; all then have this error, and none has begun.
            UnsupportedError: the model returns no loss and none was given, or this is under `torch.inference_mode`; a
                frozen parameter is to be trained since, or one has hooks that would not be called with its gradient.
        """
        worker = self._filled()
        self._check_loss()
        if torch.is_inference_mode_enabled():
            raise UnsupportedError(
                "train_step under torch.inference_mode can have no gradients: call it outside, or par.evaluate"
            )
        # Under ZeRO-2 passes sum gradients, of several stages in an order that depends on how many there are.
        named, schedule = self._taken(batch, self._trained, self.plan.zero >= 2 and self.plan.virtual_stages > 1)
        recorder = Recorder(worker.mesh) if trace else None
        with torch.enable_grad():
            loss = worker.step(named, self._graph.batched_inputs, schedule, recorder)
        if recorder is not None:
            self._recorded = recorder.timeline()
        return loss

    def evaluate(self, batch: Any) -> torch.Tensor:
        """The loss in evaluation mode, without gradients: no dropout, running statistics as they are.

        When first called it captures the model once more, in evaluation mode. The weights are those in training.

        Args:
            batch: this replica's share, as for `train_step`.

        Returns:
            The mean loss over the whole global batch, a scalar, the same on every rank.

        Raises:
            LaunchError: outside a job of the plan's size.
            BatchError: a batch that is larger than planned, or of another form.
            CaptureError: the model cannot be captured in evaluation mode.
            UnsupportedError: the model returns no loss and none was given, or evaluation needs weights on other ranks
                than training does.
        """
        self._filled()
        self._check_loss()
        with torch.inference_mode(False):  # what is made at the first call serves others too
            evaluation, named, schedule = self._evaluated(batch, returns=False)
            return evaluation.loss(named, self._graph.batched_inputs, schedule)

    def predict(self, batch: Any, everywhere: bool = True) -> Any:
        """What the model returns in evaluation mode, without gradients: a tensor, a tuple, a dict, a dataclass.

        The tensors in it are whole, for all samples of `batch`; a loss that the model itself returns, and what else is
        a sum or a mean over samples, is that of the whole global batch.

        Args:
            batch: this replica's share, as for `train_step`, labels and all.
            everywhere: whether every rank of the replica gets the output. Otherwise those of the last stage do, which
                spares sending it to the others; these get None.

        Raises:
            BatchError: besides the reasons of `evaluate`, an output that has no samples as a dim, as it would be
                another in each micro-batch.
            and what else `evaluate` raises; a loss is not needed.
        """
        self._filled()
        with torch.inference_mode(False):
            evaluation, named, schedule = self._evaluated(batch, returns=True)
            return evaluation.outputs(named, self._graph.batched_inputs, schedule, everywhere)

    def clip_grad_norm_(
        self, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
    ) -> torch.Tensor:
        """Clip all gradients by their norm over the whole model: `torch.nn.utils.clip_grad_norm_` of one process.

        All ranks must call it together, between `train_step` and the optimizer's step.

        Returns:
            The norm before clipping, a scalar, the same on every rank: pieces of a tensor, tied weights and replicas
            are counted once.

        Raises:
            LaunchError: outside a job of the plan's size.
            UnsupportedError: a `norm_type` that is not above 0.
            RuntimeError: the norm is not finite, and `error_if_nonfinite`.
        """
        return self._inside().clip(max_norm, norm_type, error_if_nonfinite)

    def shard_batch(self, batch: Any) -> Any:
        """This rank's share of a global batch, in the same form.

        A batch of fewer samples than `global_batch` is shared out too; shares may then differ by one sample.

        Raises:
            LaunchError: outside a job of the plan's size.
            BatchError: the batch has more than `global_batch` samples, or fewer than there are replicas.
        """
        return self._batches.cut(batch, self._inside().mesh.replica)

    def parameters(self) -> Iterator[nn.Parameter]:
        """This rank's parameters, for an optimizer; see `named_parameters`."""
        return iter(self._leaves().values())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This rank's parameters by their original names; each is this rank's piece.

        With zero=1, 2 or 3 a piece is what this rank updates of a trained parameter: some of its elements in a row, in
        a tensor of as many dims, which may be empty. What a step changes reaches the modules when the next step,
        evaluation or save begins. With zero=3 frozen parameters are in such pieces too, and those of `module` are empty
        but while a pass needs them.

        A rank whose stages have no weights to train has an empty parameter too, so that each can make an optimizer.
        """
        return iter(self._leaves().items())

    def _leaves(self) -> Mapping[str, nn.Parameter]:
        leaves = self._inside().leaves()
        return leaves if any(x.requires_grad for x in leaves.values()) else {**leaves, NO_WEIGHTS: self._none}

    def full_gradients(self) -> dict[str, torch.Tensor]:
        """Every parameter's gradient whole, by its original name, on the CPU of rank 0; {} elsewhere.

        Frozen parameters, and those that the loss does not depend on, have none. A tied parameter appears once, under
        its first name. All ranks must call it together.
        """
        return dict(self._inside().full_gradients())

    def emit(self, directory: str | Path) -> tuple[Path, ...]:
        """Write the source of every distinct stage, and the plan, into `directory`; works anywhere.

        Returns the paths of the source files.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        paths = tuple(folder / f"{stem}.py" for stem, _ in self.program.sources)
        for path, (_, text) in zip(paths, self.program.sources, strict=True):
            path.write_text(text, encoding="utf-8")
        write_plan(self.plan, folder / "plan.json")
        return paths

    def _taken(
        self, batch: Any, schedule: Callable[..., StepSchedule], alike: bool = False
    ) -> tuple[dict[str, torch.Tensor], StepSchedule]:
        """This replica's share by names, and how it is worked through; on all ranks, or an error on all.

        With `alike`, and under ZeRO-3, whose passes gather weights, replicas have equally many micro-batches.
        """
        mesh = self._inside().mesh
        device = mesh.device

        def read(count: int | None = None) -> tuple[dict[str, torch.Tensor], StepSchedule]:
            named = self._batches.named(batch)
            found = schedule(self._batches.share(named), count)
            for size in dict.fromkeys(found.sizes):
                if (why := self._sizes.misfit(size)) is not None:
                    raise BatchError(
                        f"{sum(found.sizes)} samples make micro-batches of {', '.join(map(str, found.sizes))}: "
                        f"{self.plan.model} mixes samples, and {why}. Pass a multiple of "
                        f"micro_batch={self.plan.micro_batch} samples"
                    )
            return named, found

        taken, shares = agreed(read, device, lambda own: (len(own[1].sizes), own[1].samples))
        counts = [count for count, _ in shares]
        if min(counts) != max(counts) and (alike or self.plan.zero == 3):
            taken, _ = agreed(partial(read, max(counts)), device)
        sizes = [shares[mesh.rank_at(0, replica, 0)][1] for replica in range(self.plan.dp)]  # by one rank of each
        first = sum(sizes[: mesh.replica])
        return taken[0], replace(taken[1], most=max(counts), samples=sum(sizes), first=first)

    def _trained(self, samples: int, count: int | None = None) -> StepSchedule:
        """How this replica trains on so many samples, with the parameters as they are now."""
        self._inside().check_parameters()
        return self._schedule(samples, count)

    def _evaluated(self, batch: Any, returns: bool) -> tuple[Evaluation, dict[str, torch.Tensor], StepSchedule]:
        """The model in evaluation mode, and this replica's share, which it can take on all ranks."""
        mesh = self._inside().mesh
        named, schedule = self._taken(batch, partial(evaluation_schedule, self.plan, mesh.homes))
        evaluation = self._evaluation(returns)
        agreed(partial(evaluation.check, schedule, self.plan.micro_batch), mesh.device)
        return evaluation, named, schedule

    def _check_loss(self) -> None:
        if self._graph.loss is None:
            raise UnsupportedError(
                f"{self.plan.model} returns no loss: pass loss=, a function of (output, batch), to parallelize"
            )

    def _evaluation(self, returns: bool) -> Evaluation:
        """The model in evaluation mode, with what it `returns` or with its loss; made when it is first asked for."""
        if returns not in self._evaluations:
            if self._variant is None:
                raise UnsupportedError("this was not made by autopart.parallelize, and knows no evaluation mode")
            self._evaluations[returns] = Evaluation(self._variant(returns), self._inside(), self._model)
        return self._evaluations[returns]

    def _inside(self) -> Worker:
        if self._worker is not None:
            return self._worker
        world = self.plan.world
        if dist.is_initialized() and dist.get_world_size() == world:
            raise LaunchError("the process group was started after parallelize: start it before, and call it then")
        running = f"this job has {dist.get_world_size()}" if dist.is_initialized() else "this process is in no job"
        nodes = max(1, -(-world // self.plan.devices_per_node))
        per_node = min(world, self.plan.devices_per_node)
        many = f" --nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint HOST:PORT" if nodes > 1 else ""
        raise LaunchError(
            f"the plan is for {world} ranks, {running}: launch with `torchrun{many} --nproc-per-node {per_node} "
            f"SCRIPT.py`, or run a function on local processes with autopart.run(function, world={world})"
        )
