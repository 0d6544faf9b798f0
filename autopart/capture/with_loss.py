"""WithLoss: the module that is exported, a model followed by its loss."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from autopart.capture.cast_regions import marked_regions
from autopart.capture.example_inputs import Batch
from autopart.capture.module_state import ModuleState
from autopart.capture.symbolic_len import symbolic_len
from autopart.errors import CaptureError

LossFunction = Callable[[Any, Any], Any]  # gives the loss, or all tensors that are to leave the graph


class ForwardError(Exception):
    """The model's code failed; the cause says how.

    An error of its own: of those of torch, export prints the whole graph so far.
    """


class Watch(Protocol):
    """What looks on while the model runs."""

    def active(self) -> AbstractContextManager[None]:
        """For the time that the model runs."""

    def check(self, result: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        """Called with what will be returned; may raise."""


class WithLoss(nn.Module):
    """The model followed by its loss, taking the tensors of the batch by position.

    `call`, where given, runs in place of the model, which then only lends its tensors. Modules whose ids are in
    `hidden` are not found among its modules, nor are their tensors: whoever exports it sees none of them.

    Attributes:
        state: knows what the last run did to the modules.

    Raises:
        ForwardError: from `forward`, with the model's error as its cause.
    """

    def __init__(
        self,
        model: nn.Module,
        rebuild: Callable[..., Batch],
        loss: LossFunction | None,
        watch: Watch | None = None,
        call: Callable[..., Any] | None = None,
        hidden: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self._rebuild = rebuild
        self._loss = loss
        self._watch = watch
        self._call = call
        self._hidden = hidden
        self.state = ModuleState(model)
        self._returns_kept = False

    @contextmanager
    def returning_kept(self) -> Iterator[None]:
        """While it lasts, the tensors that the model puts into attributes are returned after all else."""
        self._returns_kept = True
        try:
            yield
        finally:
            self._returns_kept = False

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """All modules inside, but for those that are hidden."""
        return (item for item in super().named_modules(*args, **kwargs) if id(item[1]) not in self._hidden)

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The loss, or the tensors that the model returns."""
        try:
            with self.state.seen(), symbolic_len(self.model, self._loss), marked_regions():
                if self._watch is None:
                    return self._with_kept(self._result(tensors))
                with self._watch.active():
                    result = self._with_kept(self._result(tensors))
                self._watch.check(result)
        except Exception as error:
            raise ForwardError from error
        return result

    def _with_kept(self, result: Any) -> Any:
        if not self._returns_kept:
            return result
        kept = [tensor for _, new in self.state.so_far().values() for tensor in new.tensors]
        return (*(result if isinstance(result, tuple) else (result,)), *kept)

    def _result(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        batch = self._rebuild(tensors)
        call = self.model if self._call is None else self._call
        output = call(**batch) if isinstance(batch, Mapping) else call(*batch)
        loss = self._loss(output, batch) if self._loss is not None else own_loss(output)
        if loss is None:
            return _tensors(output)
        if isinstance(loss, tuple):
            return loss
        if loss.ndim:
            raise CaptureError(f"the loss has shape {tuple(loss.shape)}: it must be a scalar, for example its mean")
        return loss


def own_loss(output: Any) -> torch.Tensor | None:
    """The loss in what a model returns: a scalar, or the entry `loss`; None where there is none."""
    if isinstance(output, torch.Tensor):
        return output if output.ndim == 0 else None
    candidate = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return candidate if isinstance(candidate, torch.Tensor) else None


def _tensors(output: Any) -> tuple[torch.Tensor, ...]:
    if isinstance(output, torch.Tensor):
        return (output,)
    items = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    found = tuple(item for item in items if isinstance(item, torch.Tensor))
    if not found:
        raise CaptureError(f"the model returns a {type(output).__name__} with no tensor in it")
    return found
