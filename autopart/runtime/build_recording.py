"""Build recording: a model built on `meta` tensors, and the tape of how its tensors would have got their values."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from autopart.errors import CheckpointError, UnsupportedError
from autopart.runtime.build_replay import replay
from autopart.runtime.build_tape import Draw, Operation, Tape, View

FILLS = frozenset(
    {"fill_", "zero_", "copy_", "uniform_", "normal_", "random_", "exponential_", "cauchy_", "log_normal_"}
    | {"geometric_", "bernoulli_"}
)  # whatever was in the tensor before
TOKENS = 2**62  # nobody's seeds begin here
CPU, META = torch.device("cpu"), torch.device("meta")


class BuildRecording:
    """What `build()` does on the CPU after `torch.manual_seed(seed)`, without the memory of it.

    Its code runs as ever, and sees tensors of the CPU; they are on `meta`. Where it asks for values (`item`, `tolist`),
    these are computed.

    Attributes:
        model: what it returned.

    Raises:
        CheckpointError: it returned no module, or wrote into a tensor that torch did not make for it.
        UnsupportedError: it makes tensors on other devices.
    """

    def __init__(self, build: Callable[[], nn.Module], seed: int) -> None:
        self._shared: set[int] = set()  # what others' memory is behind
        self._storages: list[torch.UntypedStorage] = []
        self._numbers: dict[int, int] = {}
        self._operations: list[Operation] = []
        self._given: dict[int, torch.Tensor] = {}
        self._states: dict[int, torch.Tensor] = {}
        self._tokens: dict[tuple[int, bytes], int] = {}
        self._generators: list[torch.Generator] = []
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            with CPU, _AsOnCPU(self), _Noted(self):
                self.model = build()
        if not isinstance(self.model, nn.Module):
            raise CheckpointError(f"build returned a {type(self.model).__name__}: it must return the model")

    @property
    def tape(self) -> Tape:
        """What was recorded so far."""
        return Tape(self._operations, [storage.nbytes() for storage in self._storages], self._given, self._states)

    def view(self, tensor: torch.Tensor) -> View:
        """Where a tensor of `model` has its values."""
        with _without_modes():
            if not tensor.is_meta:  # made of an array, or there before; what becomes of it later does not matter
                tensor = tensor.detach().clone()
                self._given[self._number(tensor)] = tensor
            number = self._number(tensor)
            return View(number, tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    def values(self, tree: Any) -> Any:
        """The tree with real tensors: what is recorded up to here is enough to compute them."""

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not leaf.is_meta:
                return leaf
            ((_, found),) = replay(self.tape, [self.view(leaf)], self._states)
            return found

        with _without_modes():
            return pytree.tree_map(value, tree)

    def call(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call an op on `meta`, and note it if it makes or changes values."""
        lifts = function is torch.ops.aten.lift_fresh.default
        if lifts:  # a new tensor of given numbers: a copy can be changed
            function = torch.ops.aten.clone.default
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(function.tags):
            with _without_modes():
                return function(*self.values(args), **self.values(kwargs))
        noted_args, noted_kwargs = self._noted(args), self._noted(kwargs)
        known = len(self._storages)
        outputs = _shaped(function, _on_meta(args), _on_meta(kwargs))
        if torch.Tag.inplace_view in function.tags or function._schema.name == "aten::set_":
            return outputs  # another window on what is there
        leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
        views = [self.view(leaf) for leaf in leaves]
        made = {place: view for place, view in enumerate(views) if view.storage >= known}
        if lifts and not args[0].untyped_storage().resizable():  # the memory of an array
            self._shared.update(view.storage for view in views)
        written = _written(function, noted_args, noted_kwargs)
        if made or written:
            draws = torch.Tag.nondeterministic_seeded in function.tags
            self._note(function, noted_args, noted_kwargs, made, written, self._draw(kwargs) if draws else None)
        return outputs

    def _note(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        made: Mapping[int, View],
        written: list[View],
        draw: Draw | None,
    ) -> None:
        for view in written:
            if view.storage in self._given or view.storage in self._shared:
                raise CheckpointError(
                    f"build writes with {function} into a tensor that torch did not make for it, of shape "
                    f"{view.shape}, such as an array of numpy: let it copy that first"
                )
        name = function._schema.name.removeprefix("aten::")
        views = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, View)]
        read = {view.storage for view in views if not any(view is other for other in written)}
        changed = {view.storage for view in written}
        filled = {view.storage for view in written if name in FILLS and view.is_all_of(self._storages)}
        new = {view.storage for view in made.values()}
        self._operations.append(
            Operation(
                function=function,
                args=args,
                kwargs=kwargs,
                made=made,
                reads=frozenset(read | (changed - filled)),
                writes=frozenset(changed | new),
                replaces=frozenset((filled - read) | new),
                draw=draw,
                fills=views[0] if name in FILLS and len(views) == 1 and draw is not None else None,
            )
        )

    def _draw(self, kwargs: Mapping[str, Any]) -> Draw:
        """Where the next operation's numbers come from; its generator is left in a state that only it leaves."""
        generator = kwargs.get("generator") or torch.default_generator
        place = next((at for at, known in enumerate(self._generators) if known is generator), len(self._generators))
        if place == len(self._generators):
            self._generators.append(generator)
        state = generator.get_state()
        follows = self._tokens.get((place, _bytes(state)))
        index = len(self._operations)
        generator.manual_seed(TOKENS + index)
        self._tokens[place, _bytes(generator.get_state())] = index
        return Draw(generator, state if follows is None else follows)

    def _noted(self, tree: Any) -> Any:
        def noted(leaf: Any) -> Any:
            if isinstance(leaf, torch.Tensor):
                return self.view(leaf)
            return CPU if isinstance(leaf, torch.device) else leaf

        return pytree.tree_map(noted, tree)

    def _number(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._numbers:
            self._numbers[key] = len(self._storages)
            self._storages.append(storage)  # held, so that no other gets its key
        return self._numbers[key]


class _Noted(TorchDispatchMode):
    def __init__(self, recording: BuildRecording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._recording.call(func, args, kwargs or {})


class _AsOnCPU(TorchFunctionMode):
    """What is asked of a tensor is answered as if it were on the CPU."""

    def __init__(self, recording: BuildRecording) -> None:
        super().__init__()
        self._recording = recording

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.device.__get__:
            return CPU
        if func == torch.Tensor.is_meta.__get__:  # type: ignore[attr-defined]
            return False
        if func == torch.Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return True
        asked = (kwargs or {}).get("device")
        if asked is not None and torch.device(asked) != CPU:
            raise _elsewhere(asked)
        if func is torch.Tensor.tolist:
            with _without_modes():
                return self._recording.values(args[0]).tolist()
        if func is torch.Tensor.numpy:
            with _without_modes():
                array = self._recording.values(args[0]).numpy(**(kwargs or {}))
            array.setflags(write=False)  # what is written there would be written into the tensor
            return array
        if func == torch.Tensor.__deepcopy__:  # of a tensor on the CPU it copies the memory, of one on meta it is an op
            with torch._C.DisableTorchFunction():
                return func(*args)
        return func(*args, **(kwargs or {}))


def _shaped(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What an op returns on `meta`; where it is not known how that looks, it is run on zeros."""
    try:
        return function(*args, **kwargs)
    except NotImplementedError as error:
        if function._schema.is_mutable:
            raise CheckpointError(f"build calls {function}, which torch cannot do on meta: {error}") from error

    def moved(leaf: Any, device: torch.device) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return device if isinstance(leaf, torch.device) else leaf
        found = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=device)
        return found.zero_()

    with _without_modes():
        given, named = pytree.tree_map(lambda leaf: moved(leaf, CPU), (args, dict(kwargs)))
        return pytree.tree_map(lambda leaf: moved(leaf, META), function(*given, **named))


def _on_meta(tree: Any) -> Any:
    def moved(leaf: Any) -> Any:
        if isinstance(leaf, torch.device):
            if leaf not in (CPU, META):
                raise _elsewhere(leaf)
            return META
        with _without_modes():
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
                return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=META)
        return leaf

    return pytree.tree_map(moved, tree)


def _written(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[View]:
    """The arguments that an op's schema says it changes."""
    found: list[View] = []
    for place, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, View)]
    return found


def _bytes(state: torch.Tensor) -> bytes:
    with _without_modes():
        return state.numpy().tobytes()


def _elsewhere(device: Any) -> UnsupportedError:
    return UnsupportedError(
        f"build makes tensors on {device}: let it build the model on the CPU, as for one process; what a rank does not "
        "need of it gets no memory"
    )


@contextmanager
def _without_modes() -> Iterator[None]:
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield
