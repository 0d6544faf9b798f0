"""Trace once: while a model is exported, trace one of each kind of layer, and see that others do the same.

    layer 0   every call is traced, and written into a log
    layer 1   its code runs too, but each call is compared with the log and answered from it; nothing is computed
    ...       all calls agree: one `repeat_layer` is traced, with the tensors that the layer took from outside
    layer 7   a call differs: this layer is traced for itself, and has a log of its own

Equality is seen, never assumed: of every call, its arguments, its modes, and where each of its tensors comes from.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from autopart.capture.call_log import CallLog, replace_tensors, version
from autopart.capture.cast_regions import CastRegions
from autopart.capture.hidden_layers import HiddenLayers, LayersNeededError
from autopart.capture.layer_ops import enter_layer, leave_layer, repeat_layer, take_tensor
from autopart.capture.repeated_modules import RepeatedModule, repeated_modules

# Layers of a kind may differ in what they do; from so many ways on, further ones are not compared.
MOST_WAYS = 8


class NotRepeatableError(Exception):
    """Layers reach into each other in a way that only tracing each of them gets right."""


class _DifferentError(BaseException):
    """A layer does something else than the one it is compared with; not to be caught by the model's own code."""


class _StandIn(torch.Tensor):
    """A tensor inside a layer that is not traced. What the layer asks of it is answered from the log."""

    like: torch.Tensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device of what it stands in for; fake tensors too tell it by themselves, so it is in no log."""
        return self.like.device


@dataclass(frozen=True)
class _Traced:
    """A layer that was traced: its log, the numbers of its results, and what its `leave_layer` gave for them."""

    log: CallLog
    results: list[int]
    left: list[torch.Tensor]


class TraceOnce(TorchFunctionMode):
    """While it is active, modules of `root` that do what another did are traced as one `repeat_layer` each.

    Raises:
        LayersNeededError: layers that are hidden must be traced.
        NotRepeatableError: on leaving, or at once: the trace is no good.
    """

    def __init__(self, root: nn.Module, hidden: HiddenLayers) -> None:
        super().__init__()
        self.hidden = hidden
        self._needed: LayersNeededError | None = None
        # A tracer may wrap a module in a proxy, which shares its attributes.
        self._candidates = {id(vars(candidate.module)): candidate for candidate in repeated_modules(root)}
        self._untraced_call: Callable[..., Any] = nn.Module.__call__
        self._traced_call = self._untraced_call
        self._empty = torch.empty(0)
        self._traced: defaultdict[int, list[_Traced]] = defaultdict(list)
        self._given: list[tuple[torch.Tensor, int]] = []
        self._log: CallLog | None = None
        self._model: CallLog | None = None  # the log to compare with
        self._differs = False
        self._regions = CastRegions()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Watch all modules that are called."""
        self._traced_call = nn.Module.__call__
        self._traced.clear()
        self._given.clear()

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._model is not None:
                return self._untraced_call(module, *args, **kwargs)  # what happens inside is no business of the tracer
            candidate = self._candidates.get(id(vars(module)))
            if candidate is None or self._log is not None:
                return self._traced_call(module, *args, **kwargs)
            return self._run(candidate, lambda how: how(module, *args, **kwargs))

        with _called_by(call), self._regions.seen(), self:
            yield
        if self._needed is not None:  # the model may have caught it
            raise self._needed
        if any(version(tensor) != before for tensor, before in self._given):
            raise NotRepeatableError("the result of a layer is changed in place")

    def check(self, result: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        """See that what the model returns has been traced."""
        results = result if isinstance(result, tuple) else (result,)
        if any(isinstance(tensor, _StandIn) for tensor in results):
            raise NotRepeatableError("the model returns a value from inside a layer")
        self._check_seen(results)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Trace a call and log it, or answer it from the log."""
        kwargs = kwargs or {}
        if self._model is not None and self._log is not None:
            with torch._C.DisableTorchFunction():  # nothing here is traced
                return self._answer(self._model, self._log, func, args, kwargs)
        if _StandIn in types:
            raise NotRepeatableError("a value from inside a layer is used outside")
        self._check_seen((args, kwargs))
        if self._log is None:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            key = self._log.key(func, args, kwargs)
        result = func(*args, **kwargs)
        self._log.add(func, key, result)
        return result

    def _check_seen(self, taken: Any) -> None:
        """See that nothing that is traced takes a hidden tensor."""
        if not self.hidden.names:
            return
        for item in pytree.tree_leaves(taken):
            if id(item) in self.hidden.names:
                name = self.hidden.names[id(item)]
                self._need([path for path in self.hidden.paths if name.startswith(f"{path}.")])

    def _need(self, paths: list[str]) -> None:
        self._needed = LayersNeededError(paths)
        raise self._needed

    def _answer(self, model: CallLog, log: CallLog, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = len(log.calls)
        if self._differs or place == len(model.calls) or model.calls[place].key != log.key(func, args, kwargs):
            self._differs = True
            raise _DifferentError
        if func is torch._C._set_grad_enabled:
            func(*args)
        return log.repeat(model.calls[place], lambda number: self._stand_in(model.tensors[number]))

    def _stand_in(self, like: torch.Tensor) -> torch.Tensor:
        made: _StandIn = torch.Tensor._make_subclass(_StandIn, self._empty)
        made.like = like
        return made

    def _run(self, candidate: RepeatedModule, call: Callable[[Callable[..., Any]], Any]) -> Any:
        known = self._traced[candidate.kind]
        for traced in known:
            repeated = self._repeat(candidate, traced, call)
            if repeated is not None:
                return repeated[0]
        if candidate.path in self.hidden.paths:
            self._need([candidate.path] if len(known) == 1 else self._hidden_of(candidate.kind))
        if len(known) == MOST_WAYS:
            return call(self._traced_call)
        return self._trace(candidate, call)

    def _hidden_of(self, kind: int) -> list[str]:
        return [own.path for own in self._candidates.values() if own.kind == kind and own.path in self.hidden.paths]

    def _trace(self, candidate: RepeatedModule, call: Callable[[Callable[..., Any]], Any]) -> Any:
        """Trace a layer and note what it does; if it can be a model for others, its results are those of its mark."""
        entered = enter_layer()
        log = self._log = CallLog(self._regions, take_tensor)
        try:
            output = call(self._traced_call)
        finally:
            self._log = None
        results = log.results(output)
        if not results or not log.can_be_repeated(results):
            return output
        made = [log.tensors[number] for number in results]
        left = leave_layer(entered, log.taken, made, candidate.path)
        if [tensor.requires_grad for tensor in left] != [tensor.requires_grad for tensor in made]:
            return output
        self._traced[candidate.kind].append(_Traced(log, results, left))
        return self._given_for(output, log, results, left)

    def _repeat(
        self, candidate: RepeatedModule, traced: _Traced, call: Callable[[Callable[..., Any]], Any]
    ) -> tuple[Any] | None:
        """The output of a layer that does the same as a traced one; None if it does not."""
        before, grad_enabled = _state(candidate.module), torch.is_grad_enabled()
        log = self._log = CallLog(self._regions)
        self._model, self._differs = traced.log, False
        try:
            output = call(self._untraced_call)
        except (_DifferentError, Exception):
            self._differs = True
        finally:
            self._log = self._model = None
            with torch._C.DisableTorchFunction():
                torch._C._set_grad_enabled(grad_enabled)
        if self._differs or len(log.calls) != len(traced.log.calls) or log.results(output) != traced.results:
            if _state(candidate.module) != before:
                raise NotRepeatableError(f"{candidate.path} keeps a state that each call changes")
            return None
        outside = [log.tensors[number] for number in log.outside]
        weights = [self.hidden.names.get(id(tensor), "") for tensor in outside]
        seen = [tensor for tensor, name in zip(outside, weights, strict=True) if not name]
        left = repeat_layer(traced.left, seen, "\n".join(weights), candidate.path)
        return (self._given_for(output, log, traced.results, left),)

    def _given_for(self, output: Any, log: CallLog, results: list[int], left: list[torch.Tensor]) -> Any:
        """The output with the results of the mark in place of the layer's own."""
        self._given += [(tensor, version(tensor)) for tensor in left]
        new = {id(log.tensors[number]): tensor for number, tensor in zip(results, left, strict=True)}
        return replace_tensors(output, lambda tensor: new.get(id(tensor), tensor))


@contextmanager
def _called_by(call: Callable[..., Any]) -> Iterator[None]:
    """Let modules be called by `call`, as torch's own tracers do."""
    before = nn.Module.__call__
    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = before  # type: ignore[method-assign]


def _state(module: nn.Module) -> list[object]:
    """The attributes of a module and all inside, as far as a change can be seen from here."""
    return [
        (name, id(value), len(value) if isinstance(value, list | dict | set) else None)
        for inner in module.modules()
        for name, value in vars(inner).items()
    ]
