"""Space: what the training software can be asked for, and a search may therefore choose by itself."""

from dataclasses import dataclass

from cost_models.toml_table import TomlTable

RECOMPUTE = ("none", "selective", "full")
ZERO = (0, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class Space:
    """The choices of one framework of one time; pins may be outside of it.

    Attributes:
        tensor_parallel: whether it has any.
        schedules: of pipelines, the first one where there is no pipeline; with none of them it has no pipelines.
        most_virtual_stages: of a rank of the pipeline.
        zero: the ZeRO stages.
        most_cp: the largest degree of context parallelism; 1 where it has none.
        recompute: the kinds of recomputation.
        recompute_by_layer: whether each layer can have a kind of its own; a file may leave this out.
        source: whence this is.
    """

    tensor_parallel: bool = True
    schedules: tuple[str, ...] = ("1f1b",)
    most_virtual_stages: int = 1
    zero: tuple[int, ...] = (0,)
    most_cp: int = 1
    recompute: tuple[str, ...] = ("none", "full")
    recompute_by_layer: bool = False
    source: str = "what any framework has"


def read_space(table: TomlTable) -> Space:
    """The `[space]` table of a stack's file.

    Raises:
        CostModelFileError: a missing, unknown or unfit key.
    """
    space = Space(
        tensor_parallel=table.truth("tensor_parallel"),
        schedules=table.texts("schedules"),
        most_virtual_stages=table.whole("most_virtual_stages"),
        zero=table.some_of("zero", ZERO),
        most_cp=table.whole("most_cp"),
        recompute=table.some_of("recompute", RECOMPUTE),
        recompute_by_layer=table.has("recompute_by_layer") and table.truth("recompute_by_layer"),
        source=table.text("source"),
    )
    table.finish()
    return space
