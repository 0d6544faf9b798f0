"""Load: import an emitted stage and fill its weights from the model."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from autopart.errors import UnsupportedError
from autopart.ir.program import Program, StageProgram
from autopart.runtime.comm import Comm
from autopart.runtime.pieces import own_piece


def write_sources(program: Program, directory: Path) -> tuple[Path, ...]:
    """Write every source file of `program` into `directory`, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for stem, text in program.sources:
        path = directory / f"{stem}.py"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return tuple(paths)


def load_stage(stage: StageProgram, directory: Path, comm: Comm, device: torch.device) -> nn.Module:
    """Import the stage's file from `directory` and build its module, uninitialized, on `device`."""
    path = directory / f"{stage.module}.py"
    spec = importlib.util.spec_from_file_location(f"autopart_emitted_{stage.module}", path)
    if spec is None or spec.loader is None:
        raise UnsupportedError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with device:
        built: nn.Module = module.Stage(comm, stage.layers)
    return built


def load_bare_stage(
    stage: StageProgram, directory: Path, comm: Comm, device: torch.device, halved: torch.dtype | None = None
) -> nn.Module:
    """The same without memory for parameters, which get it from elsewhere: they have shapes, and no elements to read.

    Those that one product alone takes have the dtype `halved`, if there is one.
    """
    built = load_stage(stage, directory, comm, torch.device("meta"))
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
