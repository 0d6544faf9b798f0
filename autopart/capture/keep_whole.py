"""Keep modules whole: while a model is exported, each of them is one call that nobody looks into.

So is each call of a `torch.autograd.Function`, whose backward would be lost otherwise.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from autopart.capture.call_shape import CallShape, TensorShape, call_parts
from autopart.capture.found_places import matches
from autopart.capture.kept_op import kept
from autopart.capture.not_kept import not_kept
from autopart.capture.output_shape import OutputShape, output_shape
from autopart.capture.own_gradients import Applied, calling_functions
from autopart.capture.translate import to_size
from autopart.errors import CaptureError, UnknownNameError
from autopart.ir.size import BATCH, Size

FakeFunction = Callable[..., Any]
KeepWhole = Sequence[str] | Mapping[str, FakeFunction | None]
Result = TypeVar("Result")


class _UnknownCallError(BaseException):
    """A module is called in a way that it has not been run in yet; not to be caught by the model's own code."""

    def __init__(self, path: str, call: CallShape) -> None:
        super().__init__(path)
        self.path, self.call = path, call


class KeptModules:
    """The modules of `model` that the names of `wanted` stand for; `*` stands for one name in a path.

    Raises:
        UnknownNameError: a name that stands for none.
        CaptureError: a module that has hooks, or weights that others own.
    """

    def __init__(self, model: nn.Module, wanted: KeepWhole) -> None:
        if isinstance(wanted, str):
            raise UnknownNameError(f"keep_whole={wanted!r} is neither 'auto' nor a list of names: [{wanted!r}]")
        fakes = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
        named = {name: module for name, module in model.named_modules() if name}
        self._paths = {id(vars(module)): name for name, module in named.items()}
        self._modules: dict[str, nn.Module] = {}
        self._fakes: dict[str, FakeFunction | None] = {}
        for pattern, fake in fakes.items():
            found = [name for name in named if matches(pattern, name)]
            if not found:
                children = ", ".join(name for name, _ in model.named_children())
                raise UnknownNameError(
                    f"keep_whole: {type(model).__name__} has no module {pattern!r}; its own modules are {children}"
                )
            self._modules.update((name, named[name]) for name in found)
            self._fakes.update(dict.fromkeys(found, fake))
        for name in list(self._modules):
            if any(name.startswith(f"{other}.") for other in self._modules):
                del self._modules[name]
        for name, module in self._modules.items():
            _check_alone(name, module, model)
        self._functions: dict[str, Applied] = {}
        self._known: dict[object, OutputShape | CaptureError] = {}

    def exported(self, export: Callable[[], Result]) -> Result:
        """What `export` returns, with the modules kept whole.

        It is begun anew whenever a module is called for the first time: then the module is run by itself, which cannot
        be done in the middle of an export.

        Raises:
            CaptureError: what a module returns cannot be found out.
        """
        while True:
            try:
                with self._replaced():
                    return export()
            except _UnknownCallError as unknown:
                looks = self._looks(unknown.path)
                self._learn(unknown.path, unknown.call)
                for path in self._modules:  # those that look alike are likely to be called alike
                    if self._looks(path) == looks and self._key(path, unknown.call) not in self._known:
                        self._learn(path, unknown.call)

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        before = {path: vars(module).get("forward") for path, module in self._modules.items()}
        for path, module in self._modules.items():
            vars(module)["forward"] = self._forward(path, module)
        try:
            with calling_functions(self._apply, self._paths):
                yield
        finally:
            for path, module in self._modules.items():
                del vars(module)["forward"]
                if before[path] is not None:
                    vars(module)["forward"] = before[path]

    def _forward(self, path: str, module: nn.Module) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(path, module, "", args, kwargs)

    def _apply(self, function: Applied, args: tuple[Any, ...]) -> Any:
        self._functions.setdefault(function.name, function)
        return self._call(function.name, function, function.name, args, {})

    def _call(self, path: str, module: nn.Module, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of the operator in place of all that `module` does."""
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise not_kept(path, "it is called under autocast. Keep a larger module whole")
        text, inputs = call_parts(path, args, kwargs)
        shapes = [TensorShape(tuple(map(to_size, tensor.shape)), tensor.dtype) for tensor in inputs]
        call = CallShape(text, tuple(shapes))
        known = self._known.get(self._key(path, call))
        if known is None:
            raise _UnknownCallError(path, call)
        if isinstance(known, CaptureError):
            raise known
        if not known.tensors:
            return known.rebuild([], inputs)
        batch = _batch(inputs)
        sizes = [_in_trace(path, size, batch) for tensor in known.tensors for size in tensor.shape]
        ranks = [len(tensor.shape) for tensor in known.tensors]
        dtypes = " ".join(str(tensor.dtype).removeprefix("torch.") for tensor in known.tensors)
        weights = [*module.parameters(), *module.buffers()]
        if not inputs and not weights:
            raise not_kept(path, "it takes no tensor and has none")
        facts = known.samplewise, function, known.elementwise
        return known.rebuild(kept(inputs, weights, text, *facts, sizes, ranks, dtypes), inputs)

    def _learn(self, path: str, call: CallShape) -> None:
        found: OutputShape | CaptureError
        try:
            found = output_shape(path, self._callee(path), call, self._fakes.get(path), path in self._functions)
        except CaptureError as error:
            found = error  # raised where it is called so
        self._known[self._key(path, call)] = found

    def _callee(self, path: str) -> nn.Module:
        return self._functions[path] if path in self._functions else self._modules[path]

    def _key(self, path: str, call: CallShape) -> object:
        """Equal for modules that return the same shapes: that look alike, with the same plain values inside."""
        plain = tuple(
            (name, key, repr(value))
            for name, module in self._callee(path).named_modules()
            for key, value in vars(module).items()
            if isinstance(value, bool | int | float | str | tuple | None)
        )
        return (*self._looks(path), plain, call)

    def _looks(self, path: str) -> tuple[object, ...]:
        module = self._callee(path)
        tensors = [*module.named_parameters(), *module.named_buffers()]
        shapes = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors)
        return (type(module), repr(module), shapes, self._fakes.get(path))


class _Asked(dict[int, object]):
    """A memo of `copy.deepcopy` that knows all tensors, and notes what was asked for."""

    def __init__(self, tensors: dict[int, object]) -> None:
        super().__init__(tensors)
        self.asked: set[int] = set()

    def get(self, key: int, default: object = None) -> object:
        """The copy of the object with that id."""
        self.asked.add(key)
        return super().get(key, default)


def _check_alone(path: str, module: nn.Module, model: nn.Module) -> None:
    """See that a copy of `module` can do what it does."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise not_kept(
            path, "it has forward hooks, which would run outside of it. Keep a larger module whole, or remove them"
        )
    tensors: dict[str, torch.Tensor] = dict((*model.named_parameters(), *model.named_buffers()))
    asked = _Asked({id(tensor): tensor for tensor in tensors.values()})
    copy.deepcopy(module, asked)
    own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for name, tensor in tensors.items():
        if id(tensor) in asked.asked - own:
            raise not_kept(
                path, f"it refers to {name}, which lies outside of it. Keep a module whole that has both inside"
            )


def _batch(inputs: list[torch.Tensor]) -> int | None:
    """The batch size as the export knows it, from any tensor that has it as a factor of a size."""
    for tensor in inputs:
        for size in tensor.shape:
            known = to_size(size)
            if not isinstance(known, int) and (factor := known / BATCH).is_Integer:
                return size // int(factor)
    return None


def _in_trace(path: str, size: Size, batch: int | None) -> int:
    if isinstance(size, int):
        return size
    if batch is None:
        raise not_kept(path, "none of its inputs has the batch as a dim")
    return int(size / BATCH) * batch
