"""Load: build an emitted stage and fill its weights from the model."""

import linecache
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import nn

from autopart.ir.program import Program, StageProgram
from autopart.runtime.check_agreement import digest
from autopart.runtime.comm import Comm
from autopart.runtime.pieces import own_piece


def load_stage(program: Program, number: int, comm: Comm, device: torch.device) -> nn.Module:
    """Build the module of a stage, uninitialized, on `device`, from its source.

    The source is kept where tracebacks and debuggers look for it, under the name that they show: no file is needed,
    which a process that is killed would leave behind.
    """
    stage = program.stages[number]
    text = dict(program.sources)[stage.module]
    name = f"<autopart {program.model} {stage.module} {digest(text):014x}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = ModuleType(f"autopart_emitted_{stage.module}")
    exec(compile(text, name, "exec"), module.__dict__)
    with device:
        built: nn.Module = module.__dict__["Stage"](comm, stage.layers)
    return built


def load_bare_stage(
    program: Program, number: int, comm: Comm, device: torch.device, halved: torch.dtype | None = None
) -> nn.Module:
    """The same without memory for parameters, which get it from elsewhere: they have shapes, and no elements to read.

    Those that one product alone takes have the dtype `halved`, if there is one.
    """
    stage, built = program.stages[number], load_stage(program, number, comm, torch.device("meta"))
    dtypes = {own.name: halved for own in stage.parameters if own.multiplied and own.dtype == "float32"}
    for name, buffer in list(built.named_buffers(remove_duplicate=False)):
        owner, _, last = name.rpartition(".")
        built.get_submodule(owner).register_buffer(last, torch.empty_like(buffer, device=device))
    for name, parameter in list(built.named_parameters(remove_duplicate=False)):
        bare = torch.empty(parameter.shape, dtype=dtypes.get(name) or parameter.dtype, device=device)
        bare.untyped_storage().resize_(0)
        owner, _, last = name.rpartition(".")
        own = nn.Parameter(bare, requires_grad=parameter.requires_grad)
        built.get_submodule(owner).register_parameter(last, own)
    return built


def fill_stage(
    module: nn.Module,
    stage: StageProgram,
    model: nn.Module,
    constants: Mapping[str, torch.Tensor],
    tp_rank: int,
    tp: int,
) -> None:
    """Copy this rank's pieces of the model's parameters, and its constants, into the stage.

    What is on `meta` has nothing to copy: its place stays as it is.
    """
    whole = dict(model.named_parameters(remove_duplicate=False))
    own = dict(module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for parameter in stage.parameters:
            source = whole[parameter.name]
            if source.is_meta:
                continue
            shard = parameter.layout.shard
            piece = source if shard is None else own_piece(source, shard, tp_rank, tp)
            own[parameter.name].copy_(piece)
    fill_constants(module, stage, constants)


def fill_constants(module: nn.Module, stage: StageProgram, constants: Mapping[str, torch.Tensor]) -> None:
    """Copy the constants alone into the stage."""
    buffers = dict(module.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for target in stage.constants:
            if not constants[target].is_meta:
                buffers[target].copy_(constants[target])
