"""Failure: says of an error where in the plan, and where in the original model, it happened."""

import linecache
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

import torch.distributed as dist
from torch import nn

from autopart.ir.action import Action, Kind
from autopart.ir.program import StageProgram
from autopart.runtime.kept import kept_modules

PASSES = {Kind.FORWARD: "forward", Kind.BACKWARD: "backward", Kind.WEIGHT: "weights' gradients"}
WEIGHT = re.compile(r"self((?:\.\w+|\[\"[^\"]+\"\])+)")


@contextmanager
def located(stage: nn.Module, program: StageProgram, action: Action, doing: str = "") -> Iterator[None]:
    """An error inside gets a note: the rank, the stage, the micro-batch, and the original module where that is known.

    Args:
        stage: the emitted module.
        program: of that stage.
        action: what the executor does.
        doing: what it does with it, if it is not the pass itself.
    """
    try:
        yield
    except Exception as error:
        where = _module(stage, program, error.__traceback__)
        error.add_note(
            f"rank {dist.get_rank()}, stage {action.stage}{_held(program)}, {PASSES[action.kind]} of micro-batch "
            f"{action.micro_batch}{f', {doing}' if doing else ''}{f', in {where}' if where else ''}"
        )
        raise


def _held(program: StageProgram) -> str:
    """The modules of the first and the last weight of a stage, in the order of the model."""
    names = [parameter.name.rpartition(".")[0] for parameter in program.parameters]
    loops = [layer[0] for loop in program.layers for layer in loop if layer]
    ends = loops if loops else names
    return f" ({ends[0]} .. {ends[-1]})" if ends else ""


def _module(stage: nn.Module, program: StageProgram, trace: TracebackType | None) -> str:
    """The original module whose code ran, by the innermost frame that knows one; "" where none does."""
    names = {id(module): name for name, module in stage.named_modules()}
    for path, kept in kept_modules(stage, program):
        names.update({id(module): f"{path}.{name}".rstrip(".") for name, module in kept.named_modules()})
    found = ""
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if id(owner) in names:
            inner = names[id(owner)]
            weights = _weights(trace.tb_frame, trace.tb_lineno)
            found = ".".join(part for part in (inner, weights) if part) or found
        trace = trace.tb_next
    return found


def _weights(frame: FrameType, line: int) -> str:
    """The module of the weights that a line of emitted code takes: `norm` of `F.linear(x, self.norm.weight)`."""
    text = linecache.getline(frame.f_code.co_filename, line)
    paths = [match.group(1) for match in WEIGHT.finditer(text) if not match.group(1).startswith(".comm")]
    parts = [re.findall(r"\w+", path)[:-1] for path in paths]
    return next((".".join(part) for part in parts if part), "")
