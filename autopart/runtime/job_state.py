"""JobState: what this rank holds of the model's state, under the original names, and what has no values yet."""

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import nn

from autopart.errors import CheckpointError
from autopart.ir.placement import REPLICATED
from autopart.ir.program import ParameterShard, Program, StageProgram
from autopart.runtime.executor import RankStage
from autopart.runtime.held_tensor import HeldTensor
from autopart.runtime.mesh import Mesh


class JobState:
    """Parameters, buffers, and on rank 0 the tensors of the model's `state_dict` that no stage has.

    Args:
        program: says which stage has what, on all ranks.
        mesh: where this rank stands.
        stages: this rank's.
        named: this rank's pieces of parameters, by their original names.
        spans: which elements of a flattened piece `named` has, where it has not all.
        model: names everything; its tensors may be on `meta`.
        constants: what the captured graph closes over.

    Attributes:
        parameters: this rank's, by their original names.
        buffers: this rank's of the model's buffers; one that training changes is with the stage that changes it.
        unused: on rank 0, tensors that are in the model's `state_dict` and on no stage; {} elsewhere.
        specs: the parameters of all stages.
        first_name: every name of the model's `state_dict` to the one of its names that its tensor is held under.
        unsaved: names of buffers that the `state_dict` does not have, and of plain tensors that have no values yet.
        waiting: the names, of all stages and of `unused`, that have no values yet; the same on every rank.
    """

    def __init__(
        self,
        program: Program,
        mesh: Mesh,
        stages: Mapping[int, RankStage],
        named: Mapping[str, nn.Parameter],
        model: nn.Module,
        constants: Mapping[str, torch.Tensor],
        spans: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        own_spans = spans or {}
        self.model_name = program.model
        self.specs: Mapping[str, ParameterShard] = {p.name: p for stage in program.stages for p in stage.parameters}
        self.parameters: Mapping[str, HeldTensor] = {
            name: HeldTensor(
                self.specs[name].shape, x, self.specs[name].layout.shard, mesh.tp_rank, program.tp, own_spans.get(name)
            )
            for name, x in named.items()
        }
        registered = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        used = {name for stage in program.stages for name in stage.constants}
        # Other constants come with the model, unless they too have no values yet.
        held = {name for name in used if name in registered or constants[name].is_meta}
        own = list(_buffers(program, stages, held))
        self.buffers: Mapping[str, HeldTensor] = dict(reversed(own))
        self._copies = [(name, other.local) for name, other in own if other is not self.buffers[name]]
        state = {name: x for name, x in model.state_dict(keep_vars=True).items() if isinstance(x, torch.Tensor)}
        self.first_name: Mapping[str, str] = _first_names(state, held.union(self.specs))
        self._changed = {item.name for stage in program.stages for item in stage.updated}
        self._buffer_specs = {
            name: ParameterShard(name, tuple(x.shape), str(x.dtype).removeprefix("torch."), REPLICATED, False)
            for name, x in state.items()
            if name in held
        }
        spare = {name: state[name] for name in dict.fromkeys(self.first_name.values())}
        spare = {name: x for name, x in spare.items() if name not in held and name not in self.specs}
        self._unused_shapes = _shapes(spare)
        self._buffer_shapes = _shapes({name: constants[name] for name in held})
        self.unsaved = frozenset(held.difference(state))
        self.unused: Mapping[str, torch.Tensor] = {}
        if dist.get_rank() == 0:
            self.unused = {name: torch.empty_like(x, device="cpu") if x.is_meta else x for name, x in spare.items()}
        whole = {**spare, **dict(model.named_parameters(remove_duplicate=False)), **dict(constants)}
        everything = (*self.specs, *held, *spare)
        self.waiting = frozenset(name for name in everything if whole[name].is_meta)

    def saved_of(self, stage: StageProgram) -> tuple[ParameterShard, ...]:
        """What a stage has of the model's `state_dict`, and the constants that it changes."""
        plain = (self._buffer_specs[name] for name in stage.constants if name in self._buffer_specs)
        return (*stage.parameters, *stage.updated, *(spec for spec in plain if spec.name not in self._changed))

    @property
    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """The whole shape and the dtype of all that stages hold, and of what none holds; the same on every rank."""
        held = {name: (spec.shape, getattr(torch, spec.dtype)) for name, spec in self.specs.items()}
        return {**held, **self._buffer_shapes, **self._unused_shapes}

    @property
    def held(self) -> Mapping[str, HeldTensor]:
        """All that this rank holds: parameters, buffers, and on rank 0 what no stage has."""
        spare = {name: HeldTensor(tuple(x.shape), x) for name, x in self.unused.items()}
        return {**self.parameters, **self.buffers, **spare}

    def fill(self, names: Iterable[str]) -> None:
        """Note that `names` have values now, and give those of buffers to all stages of this rank that have them."""
        with torch.no_grad():
            for name, copy in self._copies:
                copy.copy_(self.buffers[name].local)
        self.waiting = self.waiting.difference(names)

    def check_filled(self) -> None:
        """Whether everything that the stages need has values.

        Raises:
            CheckpointError: what has none, and how it gets some.
        """
        missing = [name for name in sorted(self.waiting) if name not in self._unused_shapes]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{self.model_name} was built on meta, and {missing[0]!r}{more} have no values yet: call "
                "par.init_weights(build, seed), par.load_pretrained(directory) or par.load(directory) first"
            )


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()}


def _buffers(
    program: Program, stages: Mapping[int, RankStage], held: Iterable[str]
) -> Iterable[tuple[str, HeldTensor]]:
    changed = {item.name for stage in program.stages for item in stage.updated}
    names = set(held)
    for stage in stages.values():
        own = {item.name for item in stage.program.updated}
        for name, buffer in stage.module.named_buffers():
            if name in names and (name in own or name not in changed):
                yield name, HeldTensor(tuple(buffer.shape), buffer)


def _first_names(state: Mapping[str, torch.Tensor], held: Iterable[str]) -> dict[str, str]:
    known, groups = set(held), dict[int, list[str]]()
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    found = {}
    for group in groups.values():
        first = next((name for name in group if name in known), group[0])
        found.update(dict.fromkeys(group, first))
    return {name: found[name] for name in state}
