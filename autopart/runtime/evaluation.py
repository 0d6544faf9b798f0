"""Evaluation: the model in evaluation mode, on the ranks that train it, with the weights that they train."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from autopart.errors import BatchError, CheckpointError, UnsupportedError
from autopart.ir.graph import Graph
from autopart.ir.program import Program, StageProgram
from autopart.ir.size import evaluate, is_batched
from autopart.runtime.backend import backend
from autopart.runtime.check_agreement import check_agreement
from autopart.runtime.comm import Comm
from autopart.runtime.executor import RankStage
from autopart.runtime.kept import bind_kept
from autopart.runtime.load import load_bare_stage
from autopart.runtime.message_order import check_message_order
from autopart.runtime.step_schedule import StepSchedule
from autopart.runtime.worker import Worker


@dataclass(frozen=True)
class Variant:
    """Another program of the same model, cut into stages at the same places and with the same pieces of weights.

    Attributes:
        program: what all stages do.
        graph: the graph that it was written from.
        constants: what the graph closes over.
        rebuild: makes what the model returns of the graph's outputs; None where the loss alone is returned.
        apart: outputs in which a sample's rows do not lie together, as where the sequence goes before the batch.
        sums: outputs to which micro-batches and replicas add their parts.
        parts: outputs without samples as a dim, of which each micro-batch has another.
    """

    program: Program
    graph: Graph
    constants: Mapping[str, torch.Tensor]
    rebuild: Callable[[Sequence[torch.Tensor]], Any] | None = None
    apart: frozenset[str] = frozenset()
    sums: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()


class Evaluation:
    """Built on every rank of the job at the same time.

    Args:
        variant: the model in evaluation mode.
        worker: has this rank's weights and its place.
        model: gives the modules that are kept whole.

    Raises:
        LaunchError: ranks that disagree.
        UnsupportedError: a stage needs weights that it does not train, or NCCL could not tell its messages apart.
    """

    def __init__(self, variant: Variant, worker: Worker, model: nn.Module) -> None:
        self._variant, self._worker, self._mesh = variant, worker, worker.mesh
        check_agreement("\n".join(text for _, text in variant.program.sources))
        for stage, own in enumerate(variant.program.stages):  # of all, so that all ranks have an error or none has
            _check_weights(stage, own, worker.program.stages[stage])
        self._stages = {stage: self._load(stage, model) for stage in self._mesh.stages}
        self._executor = worker.executor(variant.program, self._stages)
        self._graph = variant.graph

    def _load(self, stage: int, model: nn.Module) -> RankStage:
        own, mesh = self._variant.program.stages[stage], self._mesh
        comm = Comm(mesh.group("tp"), mesh.tp_rank, mesh.size("tp"))
        module = load_bare_stage(self._variant.program, stage, comm, mesh.device)
        weights = self._worker.named_parameters()
        for parameter in own.parameters:
            owner, _, last = parameter.name.rpartition(".")
            module.get_submodule(owner).register_parameter(last, weights[parameter.name])
        bind_kept(module, own, model, evaluates=True)
        return RankStage(module, comm, own)

    def loss(
        self, batch: Mapping[str, torch.Tensor], batched: Mapping[str, int], schedule: StepSchedule
    ) -> torch.Tensor:
        """The mean loss over the global batch, on every rank."""
        results = self._run(batch, batched, schedule)
        return self._executor.begin_total([result[0] for result in results]).wait()

    @torch.no_grad()
    def outputs(
        self, batch: Mapping[str, torch.Tensor], batched: Mapping[str, int], schedule: StepSchedule, everywhere: bool
    ) -> Any:
        """What the model returns for this replica's share: on all its ranks, or on those of the last stage alone."""
        graph, rebuild = self._graph, self._variant.rebuild
        samples = sum(schedule.sizes)
        results = self._run(batch, batched, schedule)
        found = []
        home = self._mesh.homes[-1]
        for place, name in enumerate(graph.outputs):
            pieces = [result[place] for result in results]
            value = graph.values[name]
            shape = [evaluate(size, samples) for size in value.shape]
            if name == graph.loss or name in self._variant.sums:
                total = self._executor.begin_total(pieces, shape).wait()
                found.append(total.to(getattr(torch, value.dtype)))
                continue
            whole = torch.empty(shape, dtype=getattr(torch, value.dtype), device=self._mesh.device)
            if pieces:
                dim = next((dim for dim, size in enumerate(value.shape) if is_batched(size)), None)
                whole.copy_(pieces[0] if dim is None else torch.cat(pieces, dim))
            if everywhere and self._mesh.size("pp") > 1:
                source = self._mesh.rank_at(home, self._mesh.replica, self._mesh.tp_rank)
                dist.broadcast(whole, source, group=self._mesh.group("pp"))
            found.append(whole)
        if rebuild is None or not (everywhere or self._mesh.pp_rank == home):
            return None
        return rebuild(found)

    def check(self, schedule: StepSchedule, micro_batch: int) -> None:
        """Whether a batch can be worked through so.

        Several micro-batches give one output only where it has the samples as a dim, or is nothing computed.

        Raises:
            BatchError: an output that has not.
            UnsupportedError: NCCL could not tell the messages apart.
        """
        if backend() == "nccl":
            check_message_order(self._variant.program, schedule.actions)
        graph = self._graph
        if len(schedule.sizes) == 1:
            return
        for name in graph.outputs:
            value = graph.values[name]
            batched = any(map(is_batched, value.shape))
            if name not in (self._variant.apart if batched else self._variant.parts):
                continue
            node = graph.nodes[graph.producer[name]]
            why = (
                "in which the rows of a sample do not lie together, so those of micro-batches make no whole"
                if batched
                else "which has no samples as a dim, so it is another in each micro-batch"
            )
            raise BatchError(
                f"the model returns {name} (by {node.op} in {node.scope or 'the model'}) of shape "
                f"({', '.join(map(str, value.shape))}), {why}: "
                f"pass no more than micro_batch={micro_batch} samples, or let the model leave it out"
            )

    def _run(
        self, batch: Mapping[str, torch.Tensor], batched: Mapping[str, int], schedule: StepSchedule
    ) -> list[tuple[torch.Tensor, ...]]:
        self._refresh_constants()
        micro_batches = self._worker.micro_batches(batch, batched, schedule.sizes)
        worker = self._worker
        with worker.unbroken(), worker.random("evaluation"), worker.precision.computing(self._mesh.device):
            return self._executor.forward(schedule, micro_batches)

    @torch.no_grad()
    def _refresh_constants(self) -> None:
        """Bring what training changes up to date: the first replica's, as `full_state_dict` has them."""
        trained = self._worker.buffers()
        for number, stage in self._stages.items():
            updated = {item.name for item in self._worker.program.stages[number].updated}
            buffers = dict(stage.module.named_buffers(remove_duplicate=False))
            for name in stage.program.constants:
                source = trained.get(name, self._variant.constants[name])
                if source.is_meta:
                    raise CheckpointError(
                        f"{name!r} was built on meta, is used in evaluation mode alone, and has no values: build it on "
                        "the CPU"
                    )
                buffers[name].copy_(source)
                if name in updated and self._mesh.size("dp") > 1:
                    group = self._mesh.group("dp")
                    dist.broadcast(buffers[name], dist.get_global_rank(group, 0), group=group)


def _check_weights(stage: int, own: StageProgram, trained: StageProgram) -> None:
    held = {parameter.name: parameter.layout.shard for parameter in trained.parameters}
    for parameter in own.parameters:
        if parameter.name not in held or held[parameter.name] != parameter.layout.shard:
            raise UnsupportedError(
                f"stage {stage} needs {parameter.name} in evaluation mode, and training has it elsewhere or in other "
                "pieces: evaluate the whole model, with the weights of full_state_dict()"
            )
