"""Write a sharded graph out: one source file a distinct stage, and the data to run them."""

from collections.abc import Sequence

from autopart.emit.function import Sharded
from autopart.emit.kept import kept_modules
from autopart.emit.stage_spec import StageSpec, stage_specs
from autopart.emit.stage_writer import StageWriter
from autopart.errors import UnsupportedError
from autopart.ir.program import Program, StageProgram, Transfer
from autopart.ir.units import Unit


def emit_program(
    sharded: Sharded, units: Sequence[Unit], cuts: Sequence[int], recompute: Sequence[str], facts: str
) -> Program:
    """The program of `sharded`, cut before the units `cuts`.

    Args:
        sharded: the folded graph with a strategy for every node and a layout for every parameter.
        units: of the folded graph.
        cuts: indices of the units at which a new stage begins.
        recompute: for every run of a loop, in the order of `units`, what is computed again in the backward pass:
            "none"; "selective", attention; or "full", all from its inputs.
        facts: lines about the plan for the head of each file.
    """
    graph = sharded.graph
    runs = [(unit.loop.start, unit.run) for unit in units if unit.loop is not None]
    kinds = dict(zip(runs, recompute, strict=True))
    specs = stage_specs(sharded.folded, units, cuts, sharded.batch.totals)
    home = {name: stage for stage, spec in enumerate(specs) for name in spec.gives}
    stages: list[StageProgram] = []
    sources: dict[str, str] = {}
    for stage, spec in enumerate(specs):
        writer = StageWriter(sharded, spec, kinds, last=stage == len(specs) - 1)
        module = sources.setdefault(writer.source(facts), f"stage_{stage}")
        stages.append(
            StageProgram(
                module=module,
                layers=writer.layers,
                parameters=writer.parameters,
                constants=writer.constants,
                updated=writer.updated,
                inputs=tuple(item.path for item in graph.inputs if item.value.name in spec.inputs),
                receives=tuple(_transfer(sharded, name, home[name], specs) for name in spec.receives),
                sends=tuple(_transfer(sharded, name, stage, specs) for name in spec.gives),
                outputs=len(writer.results),
                kept=kept_modules(sharded.folded, spec),
                counts=len(writer.counted),
                count_inputs=writer.count_inputs,
            )
        )
    texts = tuple((stem, text) for text, stem in sources.items())
    return Program(graph.name, sharded.tp, texts, tuple(stages), graph.loss is not None)


def _transfer(sharded: Sharded, name: str, source: int, specs: Sequence[StageSpec]) -> Transfer:
    inner = sharded.inner(name)
    value, shard = sharded.graph.values[inner], sharded.layout(inner).shard
    if shard is not None and shard.by is not None:
        raise UnsupportedError(
            f"stage {source} would send {name!r}, of which a tensor-parallel rank holds rows whose number is known "
            "only when the model runs: cut stages elsewhere, or plan again"
        )
    shape = sharded.held_shape(inner)
    targets = tuple(stage for stage, spec in enumerate(specs) if name in spec.receives)
    return Transfer(name, shape, value.dtype, value.requires_grad, source, targets)
