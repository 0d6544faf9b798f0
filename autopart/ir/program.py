"""Program: a plan written out, stage by stage, as source code and as the data that the executor needs to run it."""

from dataclasses import dataclass

from autopart.ir.placement import Layout
from autopart.ir.size import Size


@dataclass(frozen=True, slots=True)
class ParameterShard:
    """What a rank holds of a parameter.

    Attributes:
        name: the original one.
        shape: the whole one.
        layout: says which piece a rank has.
        trainable: whether it gets a gradient.
        multiplied: whether one product takes it as it is held, and nothing else does: of those that `torch.autocast`
            computes in half.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: Layout
    trainable: bool
    multiplied: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """A value that stage `source` sends straight to each of `targets`; `shape` is a rank's own, in the batch symbol."""

    name: str
    shape: tuple[Size, ...]
    dtype: str
    requires_grad: bool
    source: int
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeptModule:
    """What a stage calls as `self.kept[key]`: the model's module at `path`, or a `torch.autograd.Function`.

    The path of a function is "package.module:Class".

    In run `run` of loop `loop` of the stage, or in the stage itself, where these are None.
    """

    key: str
    path: str
    loop: int | None = None
    run: int | None = None


@dataclass(frozen=True, slots=True)
class StageProgram:
    """One stage: its `module` (a source file's stem), and what enters and leaves `forward`, in order.

    Attributes:
        layers: for every loop of the stage and every run, the paths of the modules that hold its weights (of one layer,
            or of several that repeat together): the arguments of the class.
        updated: the constants that a forward pass changes.
        inputs: paths of the model inputs that `forward` takes first.
        receives: values from earlier stages, which `forward` takes next.
        sends: values for later stages, which `forward` returns first.
        outputs: how many of the model's outputs `forward` returns last.
        kept: modules of the model that are called as they are.
        counts: how many tensors `counts` returns: the targets of averaged losses, and totals of what inputs decide. Its
            arguments are `count_inputs`.
    """

    module: str
    layers: tuple[tuple[tuple[str, ...], ...], ...]
    parameters: tuple[ParameterShard, ...]
    constants: tuple[str, ...]
    updated: tuple[ParameterShard, ...]
    inputs: tuple[str, ...]
    receives: tuple[Transfer, ...]
    sends: tuple[Transfer, ...]
    outputs: int
    kept: tuple[KeptModule, ...]
    counts: int
    count_inputs: tuple[str, ...]

    @property
    def puts_off(self) -> bool:
        """Whether a split backward pass puts weights' gradients off: a stage that gives no gradients back keeps nobody
        waiting.
        """
        return any(transfer.requires_grad for transfer in self.receives)


@dataclass(frozen=True, slots=True)
class Program:
    """All stages, and the `sources`: (file stem, text) of every distinct one."""

    model: str
    tp: int
    sources: tuple[tuple[str, str], ...]
    stages: tuple[StageProgram, ...]
    has_loss: bool
