"""Side: one way to run a training step, and all the ways there are: ours, torch's and those written by hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleSingle
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, loss_parallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import autopart
from tests.benchmarks.runtime_speed.gpt import Size, Stage, batch, build, mean_loss, shares
from tests.benchmarks.runtime_speed.megatron import MegatronGPT

COLUMNS = ("attention.q", "attention.k", "attention.v", "mlp.up")
ROWS = ("attention.proj", "mlp.down")


@dataclass(frozen=True)
class Side:
    """`step` is forward, loss and backward of a global batch, without an optimizer; `parameters` have the gradients.

    `gradients` gives those of the last step by the names of the GPT: all that this rank has, each whole or its chunk.
    """

    step: Callable[[], object]
    parameters: tuple[nn.Parameter, ...]
    gradients: Callable[[], Mapping[str, Tensor]]

    def run(self) -> None:
        """One step, as a loop of training would call it."""
        self.clear()
        self.step()

    def clear(self) -> None:
        """As an optimizer's `zero_grad`."""
        for parameter in self.parameters:
            parameter.grad = None


Build = Callable[[Size], Side]


def original(size: Size) -> Side:
    """The GPT as it is."""
    return _accumulating(size, model := build(size), model)


def original_compiled(size: Size) -> Side:
    """The same under torch.compile."""
    return _accumulating(size, model := build(size), torch.compile(model))


def emitted(size: Size) -> Side:
    """The emitted module in place of the GPT."""
    return _accumulating(size, module := _emitted(size), module)


def emitted_compiled(size: Size) -> Side:
    """The same under torch.compile."""
    return _accumulating(size, module := _emitted(size), torch.compile(module))


def ours(size: Size, **pins: Any) -> Side:
    """`autopart.parallelize`, with these pins."""
    par, data = _parallelized(size, **pins), batch(size)
    share = par.shard_batch(data)
    return Side(lambda: par.train_step(share), tuple(par.parameters()), par.full_gradients)


def our_replicas(size: Size) -> Side:
    """Data parallelism, each replica with its share in one piece."""
    dp = dist.get_world_size()
    return ours(size, dp=dp, micro_batch=size.batch // dp, zero=0)  # as DDP: every replica has all


def our_pipeline(size: Size, schedule: str, virtual: int = 1) -> Side:
    """A schedule of ours, the blocks shared out evenly."""
    pp = dist.get_world_size()
    cuts = [f"blocks.{blocks.start}" for blocks in shares(size, pp * virtual)[1:]]
    return ours(size, pp=pp, cuts=cuts, schedule=schedule, virtual_stages=virtual)


def torch_pipeline(size: Size, kind: Callable[..., Any], virtual: int = 1, v_shape: bool = False) -> Side:
    """A schedule of torch.distributed.pipelining, with the same split made by hand."""
    rank, world = dist.get_rank(), dist.get_world_size()
    own = [rank, 2 * world - 1 - rank] if v_shape else [rank + world * turn for turn in range(virtual)]
    model, cuts = build(size), shares(size, world * virtual)
    modules = [Stage(model, cuts[index]) for index in own]
    stages = [PipelineStage(m, i, len(cuts), torch.device("cpu")) for m, i in zip(modules, own, strict=True)]
    one = issubclass(kind, PipelineScheduleSingle) if isinstance(kind, type) else False
    schedule = kind(stages[0] if one else stages, size.batch // size.micro_batch, loss_fn=mean_loss)
    tokens, targets = batch(size)
    given = (tokens,) if 0 in own else ()
    wanted = {"target": targets} if len(cuts) - 1 in own else {}

    def step() -> None:
        schedule.step(*given, **wanted, losses=[] if wanted else None, return_outputs=False)

    return _side(step, *modules)


def dtensor(size: Size) -> Side:
    """`parallelize_module` by DTensor's own styles, and its loss over a sharded vocabulary."""
    model = build(size)
    styles: dict[str, Any] = {
        "embedding.wte": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
    }
    for index in range(size.layers):
        styles |= {f"blocks.{index}.{name}": ColwiseParallel() for name in COLUMNS}
        styles |= {f"blocks.{index}.{name}": RowwiseParallel() for name in ROWS}
    parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), styles)
    step = _accumulated(size, model)

    def in_loss_parallel() -> None:
        with loss_parallel():
            step()

    return _side(in_loss_parallel, model)


def megatron(size: Size) -> Side:
    """Tensor parallelism written by hand."""
    return _accumulating(size, model := MegatronGPT(build(size)), model)


def ddp(size: Size) -> Side:
    """`DistributedDataParallel`, each replica with its share in one piece."""
    model = build(size)
    wrapped = DistributedDataParallel(model)
    share = [item.chunk(dist.get_world_size())[dist.get_rank()] for item in batch(size)]
    return _side(lambda: wrapped(*share).backward(), model)


def _side(step: Callable[[], object], *modules: nn.Module) -> Side:
    named = {name: parameter for module in modules for name, parameter in module.named_parameters()}

    def gradients() -> dict[str, Tensor]:
        found = {name: parameter.grad for name, parameter in named.items() if parameter.grad is not None}
        return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}

    return Side(step, tuple(named.values()), gradients)


def _accumulated(size: Size, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
    """All micro-batches in a row; each has the same number of targets."""
    parts = list(zip(*(item.split(size.micro_batch) for item in batch(size)), strict=True))

    def step() -> None:
        for tokens, targets in parts:
            (loss_of(tokens, targets) / len(parts)).backward()

    return step


def _accumulating(size: Size, module: nn.Module, called: Callable[[Tensor, Tensor], Tensor]) -> Side:
    return _side(_accumulated(size, called), module)


def _parallelized(size: Size, **pins: Any) -> autopart.Parallel[autopart.Plan]:
    pins = {"micro_batch": size.micro_batch, **pins}
    return autopart.parallelize(
        build(size), world=dist.get_world_size(), global_batch=size.batch, inputs=batch(size), **pins
    )


def _emitted(size: Size) -> nn.Module:
    """The emitted module, told of how many targets it takes the mean, as its executor does."""
    module: Any = _parallelized(size).module
    module.comm.totals = [torch.tensor(size.micro_batch * size.context)]
    return cast(nn.Module, module)
